// The home page: signs in, and shows the inbox as it fills.

import { HubConnection } from "./hub.js";
import { call, currentLanguage, explain, onLanguage, showFault, words } from "./words.js";

const KEPT_DEVICE = "carillon.device";
const SHOWN = 200;
const element = (id) => document.getElementById(id);

const notes = new Map(); // by id, in the order of arrival
const appNames = new Map();
let cursor = 0;
let state = "connecting";

const hub = new HubConnection({
  getTicket: async () => {
    const reply = await call("POST", "/account/ticket");
    if (reply.ok) return reply.content.ticket;
    if (reply.status === 401) return null;
    throw new Error("no ticket");
  },
  getHello: () => ({ deviceId: deviceId(), cursor, acknowledges: true, label: label(), platform: "web" }),
  onHello: (answer) => { if (!answer.complete) loadInbox(); },
  onNotify: receive,
  onState: (next) => {
    if (next === "ended") return recheck();
    showState(next);
  },
});

// One id a browser: opening the page again is the same device, and the newest tab is the live one.
function deviceId() {
  const made = "web-" + Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  try {
    const kept = localStorage.getItem(KEPT_DEVICE);
    if (!kept) localStorage.setItem(KEPT_DEVICE, made);
    return kept ?? made;
  } catch {
    return made;
  }
}

function label() {
  const agent = navigator.userAgent;
  const browser = ["Firefox", "Edg", "OPR", "Chrome", "Safari"].find((name) => agent.includes(`${name}/`)) ?? "Browser";
  const system = ["Android", "iPhone", "iPad", "Windows", "Mac OS", "Linux"].find((name) => agent.includes(name)) ?? "";
  return `${{ Edg: "Edge", OPR: "Opera" }[browser] ?? browser} ${system}`.trim();
}

function showState(next) {
  state = next;
  element("state").dataset.state = next === "elsewhere" ? "offline" : next;
  element("state").textContent = words(`state.${next}`);
}

function showSignIn() {
  hub.stop();
  notes.clear();
  appNames.clear();
  cursor = 0;
  element("notifications").replaceChildren();
  for (const id of ["inbox", "sign-out"]) element(id).hidden = true;
  element("sign-in").hidden = false;
  element("username").focus();
}

async function showInbox(who) {
  element("sign-in").hidden = true;
  for (const id of ["inbox", "sign-out"]) element(id).hidden = false;
  element("who").textContent = who.username;
  showState("connecting");
  await loadInbox();
  hub.start();
}

async function loadInbox() {
  const reply = await call("GET", "/account/notifications?limit=50");
  element("inbox-alert").textContent = reply.ok ? "" : explain(reply);
  if (!reply.ok) return;
  cursor = Math.max(cursor, reply.content.cursor);
  notes.clear();
  for (const entry of reply.content.notifications) {
    appNames.set(entry.app_id, entry.app_name);
    notes.set(entry.id, {
      id: entry.id, appId: entry.app_id, title: entry.title, body: entry.body,
      sequence: entry.sequence, sentAt: entry.sent_at, isRead: entry.read_at !== null,
    });
  }
  draw();
}

function receive(envelope) {
  cursor = Math.max(cursor, envelope.sequence);
  const isNew = !notes.has(envelope.id);
  notes.set(envelope.id, {
    id: envelope.id, appId: envelope.appId, title: envelope.title, body: envelope.body,
    sequence: envelope.sequence, sentAt: envelope.sentAt, isRead: false, isFresh: isNew,
  });
  if (appNames.has(envelope.appId)) draw();
  else loadInbox(); // the first of an app: the list knows its name
}

function draw() {
  const ordered = [...notes.values()].sort((one, other) => other.sequence - one.sequence).slice(0, SHOWN);
  element("notifications").replaceChildren(...ordered.map(drawNote));
  element("empty").hidden = ordered.length > 0;
}

// Everything is set as text: what an app sends is shown, never run.
function drawNote(note) {
  const item = document.createElement("li");
  const card = make("article", `note${note.isRead ? "" : " unread"}${note.isFresh ? " fresh" : ""}`);
  note.isFresh = false;
  const app = appNames.get(note.appId) ?? "";
  const mark = make("span", "mark", [...app][0]?.toLocaleUpperCase() ?? "•");
  mark.setAttribute("aria-hidden", "true");
  const time = make("time", "", when(note.sentAt));
  time.dateTime = note.sentAt;
  const foot = make("div", "foot");
  foot.append(make("span", "app", app));
  if (!note.isRead) foot.append(readButton(note));
  card.append(mark, make("h2", "title", note.title), time, make("p", "body", note.body), foot);
  item.append(card);
  return item;
}

function readButton(note) {
  const button = make("button", "", words("inbox.mark-read"));
  button.type = "button";
  button.addEventListener("click", async () => {
    const reply = await call("POST", `/account/notifications/${encodeURIComponent(note.id)}/read`);
    if (!reply.ok) return;
    note.isRead = true;
    draw();
  });
  return button;
}

function make(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function when(text) {
  const instant = new Date(text);
  const isToday = instant.toDateString() === new Date().toDateString();
  const form = isToday ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" };
  return new Intl.DateTimeFormat(currentLanguage(), form).format(instant);
}

// The server said not to come back: somebody signed out, or another tab of this browser took over.
async function recheck() {
  const reply = await call("GET", "/account/session");
  if (reply.status === 401) showSignIn();
  else showState("elsewhere");
}

element("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  element("alert").textContent = "";
  const inputs = [element("username"), element("password")];
  const inOrder = inputs.map((input) => showFault(input, input.value ? "" : "fault.required"));
  if (!inOrder.every(Boolean)) return document.querySelector('[aria-invalid="true"]').focus();
  element("submit").disabled = true;
  const [username, password] = inputs.map((input) => input.value);
  const reply = await call("POST", "/account/session", { username, password });
  element("submit").disabled = false;
  if (!reply.ok) {
    element("alert").textContent = explain(reply);
    return;
  }
  element("password").value = "";
  await showInbox(reply.content);
});

element("sign-out").addEventListener("click", async () => {
  hub.stop();
  await call("DELETE", "/account/session");
  showSignIn();
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden || element("inbox").hidden) return;
  // What was withdrawn meanwhile goes, and the tab in front becomes the live one.
  loadInbox();
  hub.start();
  hub.hurry();
});
addEventListener("online", () => hub.hurry());
onLanguage(() => { showState(state); draw(); });

const session = await call("GET", "/account/session");
if (session.ok) await showInbox(session.content);
else {
  showSignIn();
  if (session.status !== 401) element("alert").textContent = explain(session);
}
