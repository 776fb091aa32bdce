// The page of the study. It knows no method: pictures have random names, and positions are all that it sends.
"use strict";
const get = (id) => document.getElementById(id);
const LETTERS = "ABCDEFGHIJKL";
const KEPT = "tagmoe-study";
let texts = {}, language = "", state = null, draft = null, active = 0, since = 0, sending = false, acting = false;

const token = () => decodeURIComponent(location.hash.slice(1));
const criteria = () => Object.keys(texts[language].criteria);
const words = (name, values = {}) =>
  texts[language].words[name].replace(/\{(\w+)\}/g, (whole, key) => (key in values ? values[key] : whole));

function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Choices that are not sent yet survive a reload and a closed tab; one entry, of the page that is open.
function keep() { try { localStorage.setItem(KEPT, JSON.stringify({ token: token(), draft })); } catch { /* private */ } }
function kept(number) {
  try {
    const found = JSON.parse(localStorage.getItem(KEPT) || "null");
    if (found && found.token === token() && found.draft && found.draft.number === number) return found.draft;
  } catch { /* private */ }
  return null;
}

function attempt() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function ask(path, body) {
  const options = { headers: { Authorization: `Bearer ${token()}` }, cache: "no-store" };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw Object.assign(new Error(), { code: "offline" });
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(), { code: (found.error || {}).code || "failed" });
  return found;
}

function problem(code) {
  const errors = texts[language].errors;
  get("problem").textContent = code ? errors[code] || errors.failed : "";
  get("problem").hidden = !code;
  if (code) get("problem").scrollIntoView({ block: "nearest" });
}

const isSeen = (element) => element.getClientRects().length > 0;

function show() {
  document.documentElement.lang = language;
  document.title = get("title").textContent = texts[language].title;
  const some = ["consent", "page", "done", "withdrawn"];
  const now = !state ? "" : state.withdrawn ? "withdrawn" : !state.consented ? "consent" : state.finished ? "done" : "page";
  for (const name of some) get(name).hidden = name !== now;
  get("withdraw").hidden = !state || !state.consented || state.withdrawn;
  get("withdraw").textContent = words("withdraw");
  get("test-run").hidden = !(state && state.simulated);
  get("test-run").textContent = words("simulated");
  get("languages").hidden = Object.keys(texts).length < 2;
  get("languages").firstElementChild.textContent = words("language");
  get("done-words").textContent = words("done");
  get("done-more").textContent = words("done_more");
  get("withdrawn").querySelector("p").textContent = words("withdrawn");
  if (now === "consent") showConsent();
  if (now === "page") showPage();
  // A browser takes the focus from what is hidden only when it paints next; a key may come before that.
  if (document.activeElement && !isSeen(document.activeElement)) document.activeElement.blur();
}

function showConsent() {
  get("consent").querySelector(".card").replaceChildren(
    ...texts[language].consent.map((text) => made("p", { textContent: text })));
  get("expertise").firstElementChild.textContent = words("expertise");
  const select = get("expertise").querySelector("select");
  const value = select.value;
  select.replaceChildren(...["", "low", "some", "high"].map((one) =>
    made("option", { value: one, textContent: words(`expertise_${one || "none"}`) })));
  select.value = value;
  get("agree").textContent = words("agree");
  get("decline").textContent = words("decline");
}

function showPage() {
  const page = state.page;
  if (!draft || draft.number !== page.number) {
    draft = kept(page.number) || { number: page.number, attempt: attempt(), choices: {}, zooms: 0, changes: 0, shown: 0 };
    active = 0;
    since = performance.now();
    window.scrollTo(0, 0);
  }
  get("instruction-name").textContent = words("instruction");
  get("instruction").textContent = page.instruction;
  get("source").hidden = !page.source;
  get("no-original").hidden = Boolean(page.source);
  get("no-original").textContent = words("no_original");
  if (page.source) {
    const button = get("source").querySelector("button");
    put(button.firstElementChild, page.source, words("original"));
    button.setAttribute("aria-label", words("enlarge_original"));
    button.onclick = () => enlarge(page.source, words("original"));
    get("source").querySelector("figcaption").textContent = words("original");
  }
  const count = page.pictures.length;
  get("pictures").style.setProperty("--columns", count <= 4 ? count : count <= 8 ? 4 : 6);
  get("pictures").replaceChildren(...page.pictures.map(card));
  get("criteria").replaceChildren(...criteria().map(question));
  get("keys").textContent = words("keys", { letters: `1-${count}` });
  get("next").textContent = words("next");
  for (const name of state.soon) if (name) new Image().src = `pictures/${name}.png`;
  mark();
}

function put(image, name, alt) {
  image.alt = alt;
  image.onload = () => image.classList.toggle("small", image.naturalWidth < 256 && image.naturalHeight < 256);
  image.onerror = () => problem("picture");
  if (!image.src.endsWith(`/${name}.png`)) image.src = `pictures/${name}.png`;
}

function card(name, position) {
  const letter = LETTERS[position];
  const image = made("img");
  put(image, name, words("picture", { letter }));
  // The radio buttons say the same to a keyboard, so this one is left out of its round.
  const pick = made("button", { className: "pick", type: "button", tabIndex: -1, onclick: () => choose(position) }, image);
  const zoom = made("button", { type: "button", textContent: "\u2922", onclick: () => enlarge(name, words("picture", { letter })) });
  zoom.setAttribute("aria-label", words("enlarge", { letter }));
  zoom.title = words("enlarge", { letter });
  const line = made("div", { className: "line" },
    made("span", { className: "letter", textContent: letter }), made("span", { className: "marks" }), zoom);
  return made("div", { className: "choice" }, pick, line);
}

function question(id, number) {
  const legend = made("legend", {}, made("span", { className: "mark", textContent: number + 1 }),
    texts[language].criteria[id].question, " ", made("span", { className: "chosen" }));
  const letters = made("div", { className: "letters" }, ...state.page.pictures.map((_, position) => {
    const input = made("input", { type: "radio", name: id, value: position, checked: draft.choices[id] === position });
    input.onchange = () => { active = number; set(id, position); };
    input.onfocus = () => { active = number; mark(); };
    input.setAttribute("aria-label", words("picture", { letter: LETTERS[position] }));
    return made("label", {}, input, LETTERS[position]);
  }));
  return made("fieldset", { onclick: () => { active = number; mark(); } }, legend, letters);
}

function set(id, position) {
  if (id in draft.choices && draft.choices[id] !== position) draft.changes += 1;
  draft.choices[id] = position;
  keep();
  mark();
}

// A picture that is clicked, or a number that is typed, answers the active question and goes on to the next open one.
function choose(position) {
  if (!state || !state.page || sending || position >= state.page.pictures.length) return;
  const ids = criteria();
  const id = ids[active];
  const input = get("criteria").querySelector(`input[name="${CSS.escape(id)}"][value="${position}"]`);
  input.checked = true;
  set(id, position);
  const open = ids.findIndex((one) => !(one in draft.choices));
  if (open >= 0) active = open;
  mark();
}

function mark() {
  const ids = criteria();
  get("criteria").querySelectorAll("fieldset").forEach((field, number) => {
    field.classList.toggle("active", number === active);
    const chosen = draft.choices[ids[number]];
    field.querySelector(".chosen").textContent = chosen === undefined ? "" : LETTERS[chosen];
  });
  get("pictures").querySelectorAll(".choice").forEach((one, position) => {
    const marks = ids.map((id, number) => [id, number]).filter(([id]) => draft.choices[id] === position);
    one.classList.toggle("best", marks.length > 0);
    one.querySelector(".marks").replaceChildren(
      ...marks.map(([, number]) => made("span", { className: "mark", textContent: number + 1 })));
  });
  get("next").disabled = sending || !ids.every((id) => id in draft.choices);
  get("progress").textContent = sending ? words("saving")
    : words("page", { number: state.page.number + 1, of: state.pages });
}

function enlarge(name, alt) {
  draft.zooms += 1;
  keep();
  put(get("large").querySelector("img"), name, alt);
  get("large").querySelector("button").textContent = words("close");
  get("large").showModal();
}

async function send(event) {
  event.preventDefault();
  if (sending || !state.page || !criteria().every((id) => id in draft.choices)) return;
  sending = true;
  mark();
  problem("");
  draft.shown += performance.now() - since;
  since = performance.now();
  keep();
  const { number, choices, zooms, changes } = draft;
  const body = { number, attempt: draft.attempt, choices, zooms, changes, shown_ms: Math.round(draft.shown), language };
  let code = "";
  try {
    state = await ask("api/answer", body);
  } catch (error) {
    code = error.code;
  }
  sending = false;
  if (code === "other_tab" || code === "withdrawn") await load();
  show();
  problem(code);
}

async function load() {
  try {
    if (!token()) throw Object.assign(new Error(), { code: "no_link" });
    state = await ask("api/state");
    problem("");
  } catch (error) {
    if (error.code !== "offline" && error.code !== "failed") state = null;
    show();
    problem(error.code);
    return;
  }
  show();
}

async function act(path, body) {
  // A late answer to a second click would show again what has been left meanwhile.
  if (acting) return;
  acting = true;
  problem("");
  let code = "";
  try {
    state = await ask(path, body);
  } catch (error) {
    code = error.code;
  }
  acting = false;
  if (code) problem(code);
  else show();
}

get("questions").addEventListener("submit", send);
get("agree").onclick = () => act("api/consent", {
  language,
  expertise: get("expertise").querySelector("select").value,
  screen: Math.min(screen.width, screen.height) < 600 ? "small" : "large",
});
get("withdraw").onclick = () => {
  get("sure").querySelector("p").textContent = words("withdraw_sure");
  get("sure-yes").textContent = words("withdraw_yes");
  get("sure-no").textContent = words("withdraw_no");
  get("sure").showModal();
};
get("sure-no").onclick = () => get("sure").close();
get("sure-yes").onclick = () => {
  get("sure").close();
  try { localStorage.removeItem(KEPT); } catch { /* private */ }
  act("api/withdraw", {});
};
get("large").querySelector("button").onclick = () => get("large").close();
get("large").querySelector("img").onclick = () => get("large").close();

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !state || !state.page || get("sure").open) return;
  if (get("large").open) {
    if (event.key === "z" || event.key === "Z") get("large").close();
    return;
  }
  // Keys are of the page, unless a control has the focus that is seen and works. A picture keeps no key from the page:
  // it has the focus because it was clicked.
  const control = event.target.closest("button, select");
  const isUsed = control !== null && isSeen(control) && !control.disabled && control.className !== "pick";
  if (isUsed && control.tagName === "SELECT") return;
  const position = "123456789".indexOf(event.key);
  if (position >= 0 && event.key.length === 1) {
    // After a number, Enter is for the next page, also where a button was clicked before.
    if (isUsed) control.blur();
    choose(position);
  } else if (event.key === "Enter" && !isUsed) {
    event.preventDefault();
    get("questions").requestSubmit();
  } else if (event.key === "z" || event.key === "Z") {
    const chosen = draft.choices[criteria()[active]];
    if (chosen !== undefined) enlarge(state.page.pictures[chosen], words("picture", { letter: LETTERS[chosen] }));
    else if (state.page.source) enlarge(state.page.source, words("original"));
  }
});

// A page that comes back from the browser's memory may be old, and another tab may have gone on.
window.addEventListener("pageshow", (event) => { if (event.persisted) load(); });
window.addEventListener("hashchange", () => { draft = null; load(); });
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden" && draft) { draft.shown += performance.now() - since; keep(); }
  else since = performance.now();
});

async function begin() {
  texts = await (await fetch("texts.json")).json();
  const known = Object.keys(texts);
  const wanted = navigator.languages.map((one) => one.split("-")[0]);
  language = wanted.map((one) => known.find((name) => name.split("-")[0] === one)).find(Boolean) || known[0];
  const select = get("languages").querySelector("select");
  select.append(...known.map((name) => made("option", { value: name, textContent: texts[name].name, selected: name === language })));
  select.onchange = () => { language = select.value; show(); };
  await load();
}
begin();
