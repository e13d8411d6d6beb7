"use strict";
// Draws the page from the JSON beside it. Text from the report enters the document as text nodes only; the page's
// policy forbids anything else (require-trusted-types-for 'script').
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const S = data.strings;
  const pairs = (list) => list.map(([label, text]) => [S[label], S[text]]);
  const cells = data.rows.map((row, index) => {
    const cell = { index };
    data.fields.forEach((field, number) => { cell[field] = S[row[number]]; });
    const rest = row.slice(data.fields.length);
    cell.details = pairs(rest[0]);
    cell.findings = rest[1].map(pairs);
    cell.trace = rest[2].map((step) => step.map((text) => S[text]));
    return cell;
  });
  const LETTERS = data.letters;
  const VERDICTS = Object.keys(LETTERS); // worst first
  const rank = (verdict) => VERDICTS.indexOf(verdict);
  const MAX_ROWS = 1500;
  const MAX_STORIES = 60;
  const MAX_FINDINGS = 10;

  const byHash = new Map();
  for (const cell of cells) {
    cell.name = `${cell.id}[${cell.column}]`;
    let name = byHash.has(cell.name) ? `${cell.tier}::${cell.name}` : cell.name;
    for (let copy = 2; byHash.has(name); copy += 1) name = `${cell.tier}::${cell.name}~${copy}`;
    cell.hash = name;
    byHash.set(name, cell);
  }
  for (const cell of cells) { // the long form leads there too
    const long = `${cell.tier}::${cell.name}`;
    if (!byHash.has(long)) byHash.set(long, cell);
  }

  // --- elements ----------------------------------------------------------------------------------
  const el = (tag, attributes, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== "")
      .flatMap((child) => (typeof child === "string" && tag !== "pre" ? jointed(child) : child)));
    return node;
  };
  // A name may be broken after a joint, not within its words.
  const jointed = (text) => text.replace(/(\w(?:::|[-_/.=,\]]))(?=\w)/g, "$1\0").split("\0")
    .flatMap((part, i) => (i ? [document.createElement("wbr"), part] : [part]));
  const find = (id) => document.getElementById(id);
  const mark = (verdict) => el("span", { class: `mark ${verdict}`, "aria-hidden": "true" }, LETTERS[verdict]);
  const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
  const worst = (members) => members.reduce((a, b) => (rank(b.verdict) < rank(a.verdict) ? b : a)).verdict;
  const group = (list, key) => {
    const groups = new Map();
    for (const item of list) {
      const name = key(item);
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(item);
    }
    return groups;
  };
  const facts = (list) => el("dl", { class: "facts" }, list.filter(([, value]) => value).flatMap(
    ([label, value]) => [el("dt", null, label), el("dd", null, typeof value === "string" ? el("code", null, value) : value)]));
  const opened = (text) => (!/https:/.test(text) ? text : el("span", null, text.split(/(https:\/\/[^\s,;)]+)/).map(
    (part, i) => (i % 2 ? el("a", { href: part, target: "_blank", rel: "noopener noreferrer" }, part) : part))));
  const copyButton = (text) => {
    const button = el("button", { type: "button", "aria-label": "Copy the command" }, "Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch { // not allowed, as in a file opened from a disk in some browsers: select it instead
        getSelection().selectAllChildren(button.previousSibling);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    return button;
  };
  const command = (text) => (text ? el("div", { class: "command" }, el("code", null, text), copyButton(text)) : null);
  for (const code of document.querySelectorAll(".conditions .command code")) code.after(copyButton(code.textContent));

  // --- filter ------------------------------------------------------------------------------------
  const filter = { verdict: new Set(), tier: new Set(), column: new Set(), text: "" };
  const haystack = (cell) => {
    cell.haystack ??= [cell.name, cell.tier, cell.flags, cell.request, cell.expected, cell.got, cell.message,
      cell.source, cell.evidence, ...cell.findings.flat().map(([, text]) => text)].join("\n").toLowerCase();
    return cell.haystack;
  };
  const passes = (cell) => ["verdict", "tier", "column"].every((key) => !filter[key].size || filter[key].has(cell[key]))
    && filter.text.toLowerCase().split(/\s+/).every((word) => !word || haystack(cell).includes(word));
  let shown = cells;

  const toggles = [];
  const toggleGroup = (label, key, values) => {
    if (values.length < 2) return null;
    return el("div", { class: "group", role: "group", "aria-label": label }, el("span", { class: "label", "aria-hidden": "true" }, label),
      values.map((value) => {
        const count = cells.reduce((sum, cell) => sum + (cell[key] === value), 0);
        const button = el("button", { type: "button", class: "toggle", "aria-pressed": "false" },
          key === "verdict" ? mark(value) : null, key === "verdict" ? " " : null, value, " ",
          el("span", { class: "count" }, count.toLocaleString("en")));
        button.addEventListener("click", () => {
          if (!filter[key].delete(value)) filter[key].add(value);
          refresh();
        });
        toggles.push([button, key, value]);
        return button;
      }));
  };
  const search = el("input", { type: "search", id: "text", placeholder: "row, flag, backend, message", "aria-label": "Text to look for" });
  search.addEventListener("input", () => { filter.text = search.value; refresh(); });
  const reset = el("button", { type: "button", class: "toggle" }, "Show all");
  reset.addEventListener("click", () => {
    for (const key of ["verdict", "tier", "column"]) filter[key].clear();
    filter.text = search.value = "";
    refresh();
    search.focus();
  });
  const distinct = (key) => [...new Set(cells.map((cell) => cell[key]))];
  find("filter").addEventListener("submit", (event) => event.preventDefault());
  find("filter").append(...[
    el("div", { class: "group" }, search),
    toggleGroup("Verdict", "verdict", VERDICTS.filter((verdict) => cells.some((cell) => cell.verdict === verdict))),
    toggleGroup("GPU", "column", data.columns),
    toggleGroup("Tier", "tier", distinct("tier")),
    el("span", { id: "shown", role: "status" }),
    reset,
  ].filter(Boolean));

  // --- matrix ------------------------------------------------------------------------------------
  const drawable = (cell) => cell.flags && cell.family && cell.gpu;
  let view = cells.some(drawable) ? "flags" : "rows";
  if (cells.some(drawable)) {
    const choices = [["flags", "By flags"], ["rows", "By row"]].map(([name, label]) => {
      const button = el("button", { type: "button", class: "toggle", "aria-pressed": String(view === name) }, label);
      button.addEventListener("click", () => {
        view = name;
        for (const other of choices) other.setAttribute("aria-pressed", String(other === button));
        drawMatrix();
      });
      return button;
    });
    find("views").setAttribute("role", "group");
    find("views").setAttribute("aria-label", "How the matrix is drawn");
    find("views").append(...choices);
  }
  for (const verdict of VERDICTS) {
    if (cells.some((cell) => cell.verdict === verdict)) {
      find("legend").append(el("span", { class: "item" }, mark(verdict), `${verdict}: ${data.meanings[verdict]}`));
    }
  }

  const drawn = new Map(); // button -> the cells it stands for
  const cellButton = (members, label, wide) => {
    const verdict = worst(members);
    const bad = members.filter((member) => member.verdict === verdict).length;
    const tally = members.length === 1 ? verdict : `${verdict}, ${bad} of ${plural(members.length, "item")}`;
    const name = `${label}: ${tally}`;
    const attributes = { type: "button", class: `cell ${verdict}`, tabindex: "-1", title: name };
    const button = wide && members[0].tally
      ? el("button", attributes, el("span", { class: "heard" }, name), el("span", { "aria-hidden": "true" }, LETTERS[verdict]), ` ${members[0].tally}`)
      : el("button", { ...attributes, "aria-label": name }, LETTERS[verdict]);
    button.addEventListener("click", () => (members.length === 1 ? open(members[0], button) : openGroup(label, members, button)));
    drawn.set(button, members);
    return button;
  };

  const prefix = (() => {
    const names = [...new Set(cells.filter(drawable).flatMap((cell) => cell.flags.match(/\b[A-Z][A-Z0-9_]*(?==)/g) || []))];
    if (names.length < 2) return "";
    let common = names.reduce((a, b) => { let n = 0; while (n < a.length && a[n] === b[n]) n += 1; return a.slice(0, n); });
    common = common.slice(0, common.lastIndexOf("_") + 1);
    return common.length > 2 ? common : "";
  })();
  const flagWords = (flags) => flags.split(" ").flatMap((word, number) => [number ? " " : "",
    el("span", { class: "flag" }, prefix && word.startsWith(prefix) ? word.slice(prefix.length) : word)]);

  // A table in which the arrow keys move, so that it is one stop for the Tab key.
  const tableOf = (caption, head, bodies, wide) => {
    const table = el("table", { class: wide ? "grid wide" : "grid", role: "grid", "aria-readonly": "true" }, el("caption", null, el("span", null, caption)), head, bodies);
    const buttons = table.querySelectorAll(".cell");
    if (buttons.length) buttons[0].setAttribute("tabindex", "0");
    table.addEventListener("focusin", (event) => {
      if (!event.target.classList.contains("cell")) return;
      table.querySelector('.cell[tabindex="0"]')?.setAttribute("tabindex", "-1");
      event.target.setAttribute("tabindex", "0");
    });
    table.addEventListener("keydown", (event) => {
      const here = event.target.closest("td");
      if (!here || event.ctrlKey || event.metaKey || event.altKey) return;
      const to = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -Infinity], End: [0, Infinity] }[event.key];
      if (!to) return;
      event.preventDefault();
      const rows = [...table.tBodies].flatMap((body) => [...body.rows]);
      const target = step(rows, rows.indexOf(here.parentNode), here.cellIndex, to);
      target?.focus();
      target?.scrollIntoView({ block: "nearest", inline: "nearest" });
    });
    return el("div", { class: "scroll" }, table);
  };
  const step = (rows, row, column, [down, right]) => {
    const at = (r, c) => rows[r]?.cells[c]?.querySelector(".cell");
    if (right === -Infinity || right === Infinity) {
      const inRow = [...rows[row].querySelectorAll(".cell")];
      return right < 0 ? inRow[0] : inRow[inRow.length - 1];
    }
    for (let r = row + down, c = column + right; r >= 0 && r < rows.length && c >= 0 && c < 10_000; r += down, c += right) {
      if (at(r, c)) return at(r, c);
      if (right && c >= rows[r].cells.length) return null;
    }
    return null;
  };
  const limited = (items, limit, draw, again, what) => {
    const cut = items.length > limit ? items.slice(0, limit) : items;
    const parts = [draw(cut)];
    if (cut.length < items.length) {
      const button = el("button", { type: "button", class: "more" }, `Show all ${items.length.toLocaleString("en")} ${what}`);
      button.addEventListener("click", again);
      parts.push(button);
    }
    return parts;
  };

  // Flags against families of requests against GPUs.
  const pictureOf = (members, limit) => {
    const families = data.families.filter((family) => members.some((cell) => cell.family === family));
    const columns = families.flatMap((family) => data.columns
      .filter((gpu) => members.some((cell) => cell.family === family && cell.column === gpu))
      .map((gpu, number) => ({ family, gpu, first: number === 0 })));
    const span = (family) => columns.filter((column) => column.family === family).length;
    const head = el("thead", null,
      el("tr", null, el("th", { class: "corner", scope: "col", rowspan: "2" }, prefix ? `flags, without ${prefix}` : "flags"),
        families.map((family) => el("th", { class: "first", scope: "colgroup", colspan: span(family) }, family))),
      el("tr", null, columns.map(({ gpu, first }) => el("th", { class: first ? "upright first" : "upright", scope: "col" }, el("span", null, gpu)))));
    const count = (flags) => (flags === "no variables" ? 0 : flags.split("=").length);
    const rows = [...group(members, (cell) => cell.flags)].sort(([a], [b]) => count(a) - count(b) || (a < b ? -1 : 1));
    return limited(rows, limit, (some) => tableOf(
      "Each square: one set of flags, one family of requests, one GPU; the worst verdict among its items", head,
      [el("tbody", null, some.map(([flags, inRow]) => {
        const at = group(inRow, (cell) => `${cell.family}\n${cell.column}`);
        return el("tr", null, el("th", { scope: "row" }, flagWords(flags)), columns.map(({ family, gpu, first }) => {
          const there = at.get(`${family}\n${gpu}`);
          return el("td", first ? { class: "first" } : null, there ? cellButton(there, `${flags}, ${family}, ${gpu}`) : null);
        }));
      }))]), () => drawMatrix(Infinity), "sets of flags");
  };

  // A tier's rows against its GPUs, or its kinds of evidence.
  const rowsOf = (tier, members, limit) => {
    const columns = data.columns.filter((column) => members.some((cell) => cell.column === column));
    const wide = members.some((cell) => cell.tally);
    const head = el("thead", null, el("tr", null, el("th", { class: "corner", scope: "col" }, "row"),
      columns.map((column) => el("th", { scope: "col" }, column))));
    const rows = [...group(members, (cell) => `${cell.level}\n${cell.id}`).values()]
      .sort((a, b) => (a[0].level !== "required") - (b[0].level !== "required"));
    return limited(rows, limit, (some) => tableOf(`${tier}: ${plural(members.length, "item")}`, head,
      [...group(some, (inRow) => inRow[0].level)].map(([level, inLevel]) => el("tbody", { class: "level" },
        el("tr", null, el("th", { scope: "rowgroup", colspan: columns.length + 1 }, `${level || "other"} rows`)),
        inLevel.map((inRow) => {
          const at = group(inRow, (cell) => cell.column);
          return el("tr", null, el("th", { scope: "row" }, inRow[0].id), columns.map((column) => {
            const there = at.get(column);
            return el("td", null, there ? cellButton(there, `${inRow[0].id}[${column}]`, wide) : null);
          }));
        }))), wide), () => drawMatrix(Infinity), "rows");
  };

  const drawMatrix = (limit = MAX_ROWS) => {
    drawn.clear();
    const parts = [];
    for (const [tier, members] of group(shown, (cell) => cell.tier)) {
      const pictured = view === "flags" ? members.filter(drawable) : [];
      const listed = view === "flags" ? members.filter((cell) => !drawable(cell)) : members;
      if (pictured.length) parts.push(...pictureOf(pictured, limit));
      if (listed.length) parts.push(...rowsOf(tier, listed, limit));
    }
    find("matrix").replaceChildren(...(parts.length ? parts : [el("p", { class: "empty" }, "No item passes this filter.")]));
    showCurrent();
  };

  // --- what falls short --------------------------------------------------------------------------
  const findingsOf = (cell, limit) => {
    if (!cell.findings.length) return null;
    const rest = cell.findings.length - limit;
    return [el("ol", { class: "findings" }, cell.findings.slice(0, limit).map(([first, ...others]) => el("li", null,
      el("strong", null, first[1]), facts(others.map(([label, text]) => [label, label === "again" ? command(text) : text]))))),
    rest > 0 ? el("p", { class: "empty" }, `and ${plural(rest, "finding")} more: open the item`) : null];
  };
  const storyFacts = (cell) => [
    ["flags", cell.flags], ["request", cell.request], ["expected", cell.expected], ["got", cell.got],
    ["message", cell.expected && cell.got ? "" : cell.message],
    ["wrote", cell.written], ["source", opened(cell.source)],
    ...cell.details.filter(([label]) => label !== "traceback"),
    ["again", command(cell.again)],
  ];
  const storyOf = (members) => {
    const cell = members[0];
    return el("article", { class: `story is-${cell.verdict}` },
      el("div", { class: "bar" }, el("span", { class: `mark ${cell.verdict}` }, cell.verdict), el("h3", { class: "code" }, cell.id),
        el("div", { class: "where" }, members.map((member) => {
          const button = el("button", { type: "button", "aria-label": `Open ${member.name}` }, member.column);
          button.addEventListener("click", () => open(member, button));
          return button;
        }))),
      facts(storyFacts(cell)), findingsOf(cell, MAX_FINDINGS));
  };
  // Findings that differ only in the cell that shows them are told once for all their GPUs.
  const alike = (cell) => JSON.stringify(cell.findings.map((finding) => finding.filter(([label]) => label !== "smallest" && label !== "again")));
  const drawStories = (limit = MAX_STORIES) => {
    const short = shown.filter((cell) => cell.verdict !== "pass").sort((a, b) => rank(a.verdict) - rank(b.verdict));
    const plots = [...group(short, (cell) => [cell.tier, cell.id, cell.verdict, cell.flags, cell.request, cell.expected,
      cell.got, cell.message, JSON.stringify(cell.details), alike(cell)].join("\n")).values()];
    const parts = limited(plots, limit, (some) => some.map(storyOf), () => drawStories(Infinity), "entries").flat();
    find("stories").replaceChildren(...(parts.length ? parts : [el("p", { class: "empty" }, "Nothing.")]));
  };

  // --- one cell ----------------------------------------------------------------------------------
  const detail = find("detail");
  let current = null;
  let opener = null;
  const narrow = matchMedia("(max-width: 720px)");
  const close = () => {
    detail.hidden = true;
    document.body.classList.remove("open");
    find("main").inert = false;
    current = null;
    showCurrent();
    setHash();
    const back = opener?.isConnected ? opener : find("short");
    back.focus({ preventScroll: true });
  };
  const show = (title, ...parts) => {
    detail.replaceChildren(...parts.flat(2).filter(Boolean));
    detail.hidden = false;
    detail.scrollTop = 0;
    document.body.classList.add("open");
    find("main").inert = narrow.matches; // it covers the page there
    find("detail-title").focus({ preventScroll: true }); // which has a screen reader say it
  };
  const titleBar = (title, ...buttons) => el("div", { class: "bar" }, buttons, el("button", { type: "button", onclick: close }, "Close"));
  const heading = (title) => el("h2", { id: "detail-title", class: "code", tabindex: "-1" }, title);

  const open = (cell, from) => {
    if (from) opener = from;
    current = cell;
    const short = shown.filter((other) => other.verdict !== "pass").sort((a, b) => rank(a.verdict) - rank(b.verdict) || a.index - b.index);
    const place = short.indexOf(cell);
    const move = (by, label) => {
      const to = place < 0 ? (by > 0 ? short[0] : short[short.length - 1]) : short[place + by];
      const button = el("button", { type: "button", disabled: !to }, label);
      button.addEventListener("click", () => open(to));
      return button;
    };
    const traceback = cell.details.find(([label]) => label === "traceback");
    show(cell.name,
      titleBar(cell.name, el("div", null, move(-1, "Previous"), " ", move(1, "Next shortfall"))),
      heading(cell.name),
      el("p", { class: "verdict" }, el("span", { class: `mark ${cell.verdict}` }, cell.verdict), data.meanings[cell.verdict]),
      facts([
        ["flags", cell.flags], ["GPU", cell.gpu], ["request", cell.request], ["expected", cell.expected], ["got", cell.got],
        ["message", cell.message], ["wrote to the environment", cell.written], ["source", opened(cell.source)],
        ["tier", [cell.tier, cell.level].filter(Boolean).join(", ")], ["evidence", cell.evidence],
        ["seconds", cell.seconds], ...cell.details.filter(([label]) => label !== "traceback"),
      ]),
      cell.findings.length ? [el("h3", null, "Findings"), findingsOf(cell, Infinity)] : [],
      cell.again ? [el("h3", null, "Again"), command(cell.again)] : [],
      el("h3", null, traceback ? "Traceback" : "Trace"),
      traceback ? el("pre", { tabindex: "0", "aria-label": "Traceback" }, traceback[1])
        : cell.trace.length ? el("ol", { class: "trace" }, cell.trace.map(([rule, answer, reason, source]) => el("li", null,
          el("span", { class: "rule code" }, rule),
          el("span", null, el("span", { class: "answer" }, answer), reason ? ` ${reason}` : "", source ? el("div", { class: "source" }, opened(source)) : null))))
          : el("p", { class: "empty" }, cell.untold || "The selector gives no trace of its decision."));
    showCurrent();
    setHash();
  };
  const openGroup = (label, members, from) => {
    opener = from;
    current = null;
    const sorted = [...members].sort((a, b) => rank(a.verdict) - rank(b.verdict) || a.index - b.index);
    show(label, titleBar(label), heading(label), el("p", null, plural(members.length, "item")),
      el("ul", { class: "members" }, sorted.map((cell) => el("li", null, mark(cell.verdict),
        el("button", { type: "button", class: "linklike", onclick: () => open(cell), "aria-label": `${cell.name}: ${cell.verdict}` }, cell.name)))));
    showCurrent();
  };
  const showCurrent = () => {
    for (const [button, members] of drawn) {
      if (current && members.includes(current)) button.setAttribute("aria-current", "true");
      else if (button.hasAttribute("aria-current")) button.removeAttribute("aria-current");
    }
  };
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !detail.hidden) close(); });
  narrow.addEventListener("change", () => { find("main").inert = narrow.matches && !detail.hidden; });

  // --- address: #row-id[gfx942]?verdict=fail&text=aiter ------------------------------------------
  const quote = (text) => encodeURIComponent(text).replace(/%5B/g, "[").replace(/%5D/g, "]").replace(/%3A/g, ":").replace(/%2C/g, ",");
  let writing = "";
  const setHash = () => {
    const words = ["verdict", "tier", "column"].filter((key) => filter[key].size)
      .map((key) => `${key === "column" ? "gpu" : key}=${[...filter[key]].map(quote).join("&" + (key === "column" ? "gpu" : key) + "=")}`);
    if (filter.text) words.push(`text=${quote(filter.text)}`);
    writing = (current ? quote(current.hash) : "") + (words.length ? `?${words.join("&")}` : "");
    try {
      history.replaceState(null, "", writing ? `#${writing}` : location.pathname + location.search);
    } catch { /* a sandboxed frame has no address to write to */ }
  };
  const unquote = (text) => { try { return decodeURIComponent(text); } catch { return text; } };
  const readHash = () => {
    const hash = location.hash.slice(1);
    if (hash === writing && (hash || !current)) return;
    const cut = hash.indexOf("?");
    const name = unquote(cut < 0 ? hash : hash.slice(0, cut));
    if (cut >= 0) {
      const given = new URLSearchParams(hash.slice(cut + 1));
      for (const key of ["verdict", "tier", "column"]) {
        filter[key] = new Set(given.getAll(key === "column" ? "gpu" : key).filter((value) => cells.some((cell) => cell[key] === value)));
      }
      filter.text = search.value = given.get("text") || "";
    }
    const cell = byHash.get(name);
    if (cell && !passes(cell)) { // a link to a cell shows it, whatever else it says
      for (const key of ["verdict", "tier", "column"]) filter[key].clear();
      filter.text = search.value = "";
    }
    refresh();
    if (cell) {
      const button = [...drawn].find(([, members]) => members.includes(cell))?.[0];
      button?.scrollIntoView({ block: "center", inline: "nearest" });
      open(cell, button);
    }
  };
  addEventListener("hashchange", readHash);

  const refresh = () => {
    shown = cells.filter(passes);
    for (const [button, key, value] of toggles) button.setAttribute("aria-pressed", String(filter[key].has(value)));
    find("shown").textContent = `${shown.length.toLocaleString("en")} of ${plural(cells.length, "item")} shown`;
    reset.hidden = shown.length === cells.length;
    drawMatrix();
    drawStories();
    setHash();
  };
  // On paper nothing can be asked for: draw everything.
  addEventListener("beforeprint", () => { drawMatrix(Infinity); drawStories(Infinity); });
  writing = "\n"; // no hash at all is read too, the first time
  readHash();
  document.documentElement.dataset.ready = Math.round(performance.now()); // ms
})();
