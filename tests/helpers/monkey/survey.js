// What a page offers to a hand, in the order of its DOM, and what it shows. Each target gets a number, `data-monkey`.
() => {
  const KINDS = [
    ["nav", "[data-testid=stSidebarNavLink]"],
    ["sidebar", "[data-testid=stSidebarCollapseButton] button, [data-testid=stExpandSidebarButton]"],
    ["theme", "[data-testid=stThemeSwitcher] button"],
    ["menu", "[data-testid=stMainMenuButton]"],
    ["none", "[data-testid=stMainMenuPopover] button, [data-testid=stFileUploaderDropzone] button"],
    ["download", "[data-testid=stDownloadButton] button"],
    ["submit", "[data-testid=stFormSubmitButton] button"],
    ["toolbar", "[data-testid=stElementToolbar] button"],
    ["help", "[data-testid=stTooltipIcon] button"],
    ["step", "[data-testid=stNumberInputStepDown], [data-testid=stNumberInputStepUp]"],
    ["select", "[data-testid=stSelectbox] input[role=combobox]"],
    ["none", "[data-testid=stSelectbox] button"],
    ["option", "[role=option]"],
    ["choice", "[role=radio], [data-testid=stButtonGroup] button, [role=tab]"],
    ["upload", "input[type=file]"],
    ["number", "[data-testid=stNumberInputField]"],
    ["text", "[data-testid=stTextInputField], [data-testid=stTextArea] textarea"],
    ["toggle", "[data-testid=stCheckbox] label"],
    ["slider", "[data-testid=stSlider] [role=group]"],
    ["expander", "[data-testid=stExpander] summary"],
    ["link", "[data-testid=stMain] a[href], [data-testid=stSidebarUserContent] a[href]"],
    ["none", "[data-testid=stHeaderActionElements] *, [data-testid=stSkipToContent]"],
    ["chart", ".js-plotly-plot"],
    ["table", "[data-testid=stDataFrameResizable]"],
    ["button", "button"],
  ];
  const all = KINDS.map(([, selector]) => selector).join(",");
  const text = e => (e.innerText || e.textContent || "").trim().split("\n").pop().trim();
  const of = (e, selector) => e.closest(selector);
  const named = e => {
    const widget = of(e, "[data-testid=stNumberInput], [data-testid=stSlider], [data-testid=stFileUploader]");
    const group = of(e, "[role=radiogroup], [role=toolbar], [data-testid=stPlotlyChart], [data-testid=stDataFrame]");
    const words = e.getAttribute("aria-label") || text(e) || e.title || e.dataset.testid || "";
    const around = (widget && widget.querySelector("label") ? text(widget.querySelector("label")) : "") ||
      (group && group.getAttribute("aria-label")) || "";
    const mine = words === "file upload" ? "" : words;
    return [around, mine === around ? "" : mine].filter(x => x).join(": ").slice(0, 120);
  };
  const shown = e => {
    const seen = e.type === "file" ? of(e, "[data-testid=stFileUploader]") : e;
    if (!seen || !seen.checkVisibility({ visibilityProperty: true })) return false;
    const box = seen.getBoundingClientRect();
    return box.width > 3 && box.height > 3 && box.right > 3 && box.left < innerWidth - 3;
  };
  const usable = e => !e.disabled && e.getAttribute("aria-disabled") !== "true" && !of(e, "[aria-disabled=true], fieldset:disabled");

  document.querySelectorAll("[data-monkey]").forEach(e => e.removeAttribute("data-monkey"));
  const targets = [], counts = {};
  for (const e of document.querySelectorAll(all)) {
    const kind = KINDS.find(([, selector]) => e.matches(selector))[0];
    if (kind === "none" || !shown(e) || !usable(e)) continue;
    if (kind === "link" && (new URL(e.href).origin !== location.origin || e.getAttribute("href").startsWith("#"))) continue;
    const same = kind + " " + named(e);
    counts[same] = (counts[same] || 0) + 1;
    e.dataset.monkey = String(targets.length);
    targets.push({
      kind, label: named(e), nth: counts[same], number: targets.length,
      min: e.min || null, max: e.max || null, accept: e.accept || null,
      key: (/st-key-(\S+)/.exec(of(e, "[data-testid=stElementContainer]")?.className || "") || ["", ""])[1],
    });
  }

  const value = e => {
    if (e.matches("[data-testid=stButtonGroup], [data-testid=stRadio]")) {
      const on = e.querySelectorAll("[aria-checked=true], [aria-pressed=true], input:checked");
      return [...on].map(x => text(x.matches("input") ? of(x, "label") : x)).join(" + ");
    }
    if (e.matches("[data-testid=stCheckbox]")) return String(e.querySelector("input").checked);
    if (e.matches("[data-testid=stSlider]"))
      return [...e.querySelectorAll("input")].map(x => x.getAttribute("aria-valuetext") || x.value).join(" to ");
    const field = e.querySelector("input, textarea");
    return field ? field.value : "";
  };
  const WIDGETS = ["stSelectbox", "stButtonGroup", "stRadio", "stCheckbox", "stSlider", "stNumberInput", "stTextInput", "stTextArea"];
  const widgets = {}, drafts = [], again = {};
  for (const e of document.querySelectorAll(WIDGETS.map(id => `[data-testid=${id}]`).join(","))) {
    if (of(e, "[data-testid=stForm]")) continue; // a draft
    const label = e.querySelector("[data-testid=stWidgetLabel]");
    const name = label ? text(label) : "without a label";
    again[name] = (again[name] || 0) + 1;
    const key = again[name] > 1 ? `${name} (${again[name]})` : name;
    if (e.querySelector(":invalid, [aria-invalid=true]")) drafts.push(key); // what stands there counts for nothing
    else widgets[key] = value(e);
  }
  const headings = {};
  for (const e of document.querySelectorAll("[data-testid=stMain] :is(h1, h2, h3)")) {
    if (!of(e, "[data-testid=stDialog]")) headings[`${e.tagName.toLowerCase()}#${e.tagName === "H1" ? "" : e.id}`] = text(e);
  }
  const main = document.querySelector("[data-testid=stMain]");
  const words = selector => [...document.querySelectorAll(selector)].map(e => e.innerText.trim());
  return {
    targets, widgets, drafts, headings, url: location.href,
    exceptions: words("[data-testid=stException]"),
    errors: words("[data-testid=stAlert]:has([data-testid=stAlertContentError])"),
    dialogs: words("[role=dialog], [data-testid=stDialog], [data-testid=stConnectionError]"),
    traceback: /Traceback \(most recent call last\)/.test(document.body.innerText),
    empty: !main || (!main.innerText.trim() && !main.querySelector("canvas, svg, img")),
    opening: !!document.querySelector(".st-key-opening"),
    links: document.querySelectorAll("[data-testid=stSidebarNavLink]").length,
  };
}
