// The setup page: takes the claim code from the address and makes the first admin.

import { call, explain, onLanguage, showFault, words } from "./words.js";

const KEPT = "carillon.claim";
const MIN_PASSWORD = 10;
const element = (id) => document.getElementById(id);
const code = takeCode();

// The code leaves the address bar at once, so that it stays out of history and screenshots; a reload still has it.
function takeCode() {
  const given = new URLSearchParams(location.hash.slice(1)).get("code");
  if (location.hash) history.replaceState(null, "", location.pathname);
  try {
    if (given) sessionStorage.setItem(KEPT, given);
    return given ?? sessionStorage.getItem(KEPT) ?? "";
  } catch {
    return given ?? "";
  }
}

function forgetCode() {
  try { sessionStorage.removeItem(KEPT); } catch { /* was never kept */ }
}

function check() {
  const required = (input) => showFault(input, input.value.trim() ? "" : "fault.required");
  const inOrder = [];
  if (!element("code-field").hidden) inOrder.push(required(element("code")));
  inOrder.push(required(element("username")));
  const password = element("password");
  const length = [...password.value].length;
  inOrder.push(showFault(password, length === 0 ? "fault.required" : length < MIN_PASSWORD ? "fault.short" : ""));
  const repeated = element("repeated");
  inOrder.push(showFault(repeated, repeated.value === password.value ? "" : "fault.repeat"));
  return inOrder.every(Boolean);
}

function focusFirstFault() {
  document.querySelector('[aria-invalid="true"]')?.focus();
}

function showRefusal(refusal) {
  const field = refusal.content.field;
  if (refusal.content.code === "already_set_up") {
    location.assign("/setup");
  } else if (field === "username" || field === "password") {
    showFault(element(field), `fault.${field}`);
    focusFirstFault();
  } else {
    element("alert").textContent = explain(refusal);
    // Another code can be typed in when the one of the link does not count.
    if (field === "code") {
      forgetCode();
      element("code-field").hidden = false;
      element("code").focus();
    }
  }
}

element("code-field").hidden = Boolean(code);
element("code").value = code;
element(code ? "username" : "code").focus();
onLanguage(() => { document.title = words("setup.page"); });
document.title = words("setup.page");

element("reveal").addEventListener("click", () => {
  const hidden = element("password").type === "password";
  for (const id of ["password", "repeated"]) element(id).type = hidden ? "text" : "password";
  element("reveal").setAttribute("aria-pressed", String(hidden));
  element("reveal").dataset.word = hidden ? "hide" : "show";
  element("reveal").textContent = words(element("reveal").dataset.word);
});

element("claim").addEventListener("submit", async (event) => {
  event.preventDefault();
  element("alert").textContent = "";
  if (!check()) return focusFirstFault();
  element("submit").disabled = true;
  const reply = await call("POST", "/wizard/api/claim", {
    code: element("code").value.trim().replace(/^.*#code=/, ""),
    username: element("username").value,
    password: element("password").value,
  });
  element("submit").disabled = false;
  if (!reply.ok) return showRefusal(reply);
  forgetCode();
  location.replace("/");
});
