// The tokens of a text with what each reader expects next. Text comes in as data and leaves as
// textContent, never as HTML. Arrow keys walk along the tokens, Enter or a click opens one.

function element(kind, classes, text) {
  const node = document.createElement(kind);
  if (classes) node.className = classes;
  if (text !== undefined) node.textContent = text;
  return node;
}

function share(p) {
  return (p < 0.01 ? "<1" : Math.round(100 * p)) + "\u202f%";
}

function mark(row) {
  const sign = element("span", row.rim ? "mark rim" : "mark", row.mark);
  if (row.rim) {
    sign.style.setProperty("--rim", row.rim);
    sign.style.setProperty("--fill", row.colour);
  } else {
    sign.style.color = row.colour;
  }
  sign.setAttribute("aria-hidden", "true");
  return sign;
}

function legend(data) {
  const line = element("div", "legend");
  for (const row of data.rows) {
    const entry = element("span");
    entry.append(mark(row), row.name);
    line.append(entry);
  }
  const tint = element("span");
  const swatch = element("span", "tint");
  swatch.style.background = `linear-gradient(to right, transparent, rgba(${data.tint}, 0.5))`;
  tint.append(swatch, data.words.tint);
  const own = element("span");
  own.append(element("span", "own", "abc"), " " + data.words.own);
  line.append(tint, own);
  return line;
}

function card(token, index, data) {
  const box = element("div", "card" + (token.paired ? "" : " own") + (token.start ? " start" : ""));
  box.setAttribute("role", "option");
  box.setAttribute("aria-selected", "false");
  box.setAttribute("aria-label", token.label);
  box.title = token.title;
  box.tabIndex = -1;
  box.dataset.index = index;
  const word = element("div", "word", token.text);
  word.dir = "auto";
  if (token.heat) word.style.background = `rgba(${data.tint}, ${token.heat})`;
  box.append(word);
  for (const row of data.rows) {
    const top = token.tops[row.key][0];
    const guess = element("div", top && top[2] ? "guess hit" : "guess");
    guess.append(mark(row));
    guess.append(element("bdi", "", top ? top[0] : "–"));
    guess.append(element("span", "share", top ? share(top[1]) : ""));
    box.append(guess);
  }
  return box;
}

function column(row, top, colour) {
  const box = element("div", "column");
  const name = element("div", "name");
  name.append(mark(row), row.name);
  box.append(name);
  if (!top.length) box.append(element("div", "quiet", row.none));
  for (const [text, p, hit] of top) {
    const line = element("div", hit ? "line hit" : "line");
    const bar = element("span", "bar");
    bar.style.width = `${Math.max(100 * p, 0.5)}%`;
    bar.style.background = row.colour;
    line.append(bar, element("bdi", "", text), element("span", "share", share(p)));
    box.append(line);
  }
  return box;
}

function detail(box, token, data) {
  box.replaceChildren();
  if (!token) {
    box.append(element("div", "quiet", data.words.hint));
    return;
  }
  box.append(element("div", "head", token.says));
  const columns = element("div", "columns");
  for (const row of data.rows) columns.append(column(row, token.tops[row.key]));
  for (const row of data.lens) columns.append(column(row, token.lens[row.key]));
  box.append(columns);
}

export default function (component) {
  const { data, parentElement, setStateValue } = component;
  const root = parentElement.querySelector(".passage");
  const state = (root.stitchlens ??= { drawn: "", picked: data.picked });
  root.style.setProperty("--ink", data.colours.ink);
  root.style.setProperty("--line", data.colours.line);

  const same = JSON.stringify([data.tokens, data.rows, data.lens, data.words, data.tint]);
  if (state.drawn === same) return;
  state.drawn = same;

  const strip = element("div", "strip");
  strip.setAttribute("role", "listbox");
  strip.setAttribute("aria-label", data.words.label);
  const cards = data.tokens.map((token, index) => card(token, index, data));
  strip.append(...cards);
  const below = element("div", "detail");
  below.setAttribute("aria-live", "polite");
  root.replaceChildren(legend(data), strip, below);

  let waiting;
  function pick(index, tell) {
    if (index !== null && !cards[index]) index = null;
    cards.forEach((box, k) => {
      box.setAttribute("aria-selected", String(k === index));
      box.tabIndex = k === (index ?? 0) ? 0 : -1;
    });
    state.picked = index;
    detail(below, index === null ? null : data.tokens[index], data);
    if (!tell) return;
    clearTimeout(waiting);
    waiting = setTimeout(() => setStateValue("picked", index), 300);
  }

  function go(index) {
    const to = Math.min(Math.max(index, 0), cards.length - 1);
    pick(to, true);
    cards[to].focus();
  }

  strip.addEventListener("click", event => {
    const box = event.target.closest(".card");
    if (!box) return;
    go(Number(box.dataset.index));
    // What a click changes is in view, on a phone too.
    if (below.getBoundingClientRect().top > window.innerHeight - 160) strip.scrollIntoView();
  });
  strip.addEventListener("keydown", event => {
    const at = Number(event.target.dataset?.index ?? 0);
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (event.key in steps) go(at + steps[event.key]);
    else if (event.key === "Home") go(0);
    else if (event.key === "End") go(cards.length - 1);
    else if (event.key === "Enter" || event.key === " ") go(at);
    else return;
    event.preventDefault();
  });
  pick(state.picked ?? null, false);
}
