// The words of the pages in English and Polish, and the switch between them.

const WORDS = {
  en: {
    "username": "User name",
    "password": "Password",
    "show": "Show",
    "hide": "Hide",
    "sign-in": "Sign in",
    "sign-in.lead": "See your notifications the moment they arrive.",
    "sign-out": "Sign out",
    "language": "Language",
    "setup.page": "Set up Carillon",
    "setup.title": "Create the admin account",
    "setup.lead": "This account can change everything on this server. You can add other people later.",
    "setup.code": "Setup code",
    "setup.code-hint": "The part behind #code= of the link that the installer printed.",
    "setup.password-hint": "At least 10 characters. A short sentence is good.",
    "setup.repeat": "Repeat the password",
    "setup.submit": "Create and sign in",
    "done.title": "This server is set up",
    "done.lead": "It has an admin already, so setup links do not work any more.",
    "inbox": "Inbox",
    "inbox.empty": "Nothing yet. New notifications appear here at once.",
    "inbox.mark-read": "Mark as read",
    "inbox.unread": "Not read",
    "state.connecting": "Connecting",
    "state.live": "Live",
    "state.offline": "Offline",
    "state.elsewhere": "Open in another tab",
    "fault.required": "Fill in this field.",
    "fault.short": "Use at least 10 characters.",
    "fault.repeat": "The two passwords differ.",
    "fault.username": "Choose a user name of 1 to 150 visible characters.",
    "fault.password": "Choose another password: not the user name, and none of the most common ones.",
    "fault.wrong_password": "The user name or the password is not right.",
    "fault.claim_refused": "This link was used, has run out or was replaced. Print a new one on the server: carillon setup-link",
    "fault.too_many_requests": "Too many tries. Wait {seconds} seconds.",
    "fault.overloaded": "Many people are signing in. Try again in a few seconds.",
    "fault.unreachable": "The server does not answer. Check the connection and try again.",
    "fault.unknown": "Something went wrong. Try again.",
  },
  pl: {
    "username": "Nazwa użytkownika",
    "password": "Hasło",
    "show": "Pokaż",
    "hide": "Ukryj",
    "sign-in": "Zaloguj się",
    "sign-in.lead": "Zobacz powiadomienia w chwili, gdy przychodzą.",
    "sign-out": "Wyloguj się",
    "language": "Język",
    "setup.page": "Konfiguracja Carillon",
    "setup.title": "Utwórz konto administratora",
    "setup.lead": "To konto może zmienić wszystko na tym serwerze. Inne osoby dodasz później.",
    "setup.code": "Kod konfiguracji",
    "setup.code-hint": "Część odnośnika z instalatora po #code=.",
    "setup.password-hint": "Co najmniej 10 znaków. Dobre jest krótkie zdanie.",
    "setup.repeat": "Powtórz hasło",
    "setup.submit": "Utwórz i zaloguj się",
    "done.title": "Ten serwer jest już skonfigurowany",
    "done.lead": "Ma już administratora, więc odnośniki konfiguracyjne nie działają.",
    "inbox": "Skrzynka",
    "inbox.empty": "Jeszcze nic. Nowe powiadomienia pojawią się tu od razu.",
    "inbox.mark-read": "Oznacz jako przeczytane",
    "inbox.unread": "Nieprzeczytane",
    "state.connecting": "Łączenie",
    "state.live": "Na żywo",
    "state.offline": "Brak połączenia",
    "state.elsewhere": "Otwarte w innej karcie",
    "fault.required": "Wypełnij to pole.",
    "fault.short": "Użyj co najmniej 10 znaków.",
    "fault.repeat": "Hasła się różnią.",
    "fault.username": "Wybierz nazwę użytkownika od 1 do 150 widocznych znaków.",
    "fault.password": "Wybierz inne hasło: nie nazwę użytkownika ani żadne z najpopularniejszych.",
    "fault.wrong_password": "Nazwa użytkownika lub hasło się nie zgadza.",
    "fault.claim_refused": "Ten odnośnik był użyty, wygasł lub został zastąpiony. Utwórz nowy na serwerze: carillon setup-link",
    "fault.too_many_requests": "Za dużo prób. Poczekaj {seconds} s.",
    "fault.overloaded": "Wiele osób loguje się naraz. Spróbuj za kilka sekund.",
    "fault.unreachable": "Serwer nie odpowiada. Sprawdź połączenie i spróbuj ponownie.",
    "fault.unknown": "Coś poszło nie tak. Spróbuj ponownie.",
  },
};

const KEPT = "carillon.language";
const listeners = [];
let language = remembered() ?? (navigator.languages ?? [navigator.language]).map(known).find(Boolean) ?? "en";

function known(tag) {
  const short = String(tag).slice(0, 2).toLowerCase();
  return short in WORDS ? short : undefined;
}

// A browser may refuse to keep anything; the page works without.
function remembered() {
  try { return known(localStorage.getItem(KEPT)); } catch { return undefined; }
}

/** Gives the words for a key, with `{name}` filled in. */
export function words(key, facts = {}) {
  const text = WORDS[language][key] ?? WORDS.en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => facts[name] ?? whole);
}

/** Gives the language tag for dates. */
export function currentLanguage() {
  return language;
}

/** Calls back after the language was switched. */
export function onLanguage(listener) {
  listeners.push(listener);
}

function apply() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = words(element.dataset.word);
  for (const listener of listeners) listener();
}

const chooser = document.getElementById("language");
if (chooser) {
  chooser.value = language;
  chooser.addEventListener("change", () => {
    language = known(chooser.value) ?? "en";
    try { localStorage.setItem(KEPT, language); } catch { /* kept for this page only */ }
    apply();
  });
}
apply();

/** Calls the server with JSON; gives `{ok, status, content}`, with status 0 when it does not answer. */
export async function call(method, path, body) {
  try {
    const reply = await fetch(path, {
      method,
      credentials: "same-origin",
      headers: body === undefined ? {} : { "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await reply.text();
    return { ok: reply.ok, status: reply.status, content: text ? JSON.parse(text) : {} };
  } catch {
    return { ok: false, status: 0, content: {} };
  }
}

/** Puts a refusal into words. */
export function explain(refusal) {
  if (refusal.status === 0) return words("fault.unreachable");
  const key = `fault.${refusal.content.code}`;
  if (key in WORDS.en) return words(key, { seconds: refusal.content.retry_after_s });
  return refusal.content.detail ?? words("fault.unknown");
}

/** Shows the fault of one field by its key, or clears it with ""; gives whether the field is in order. */
export function showFault(input, key) {
  input.setAttribute("aria-invalid", key ? "true" : "false");
  const place = document.getElementById(`${input.id}-fault`);
  place.textContent = key ? words(key) : "";
  // Named, so that a switch of the language finds it.
  if (key) place.dataset.word = key;
  else delete place.dataset.word;
  return !key;
}
