// Draws the question and its answer. Text enters the document as text nodes only; the page's policy forbids
// anything else (require-trusted-types-for 'script').
const atlas = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const rocm = selector(data);
  const RELEASES = Object.keys(data.policies).filter((name) => name !== "pr-26980").reverse();
  RELEASES.push(...Object.keys(data.policies).filter((name) => name === "pr-26980"));
  const OPTION = "--attention-backend";
  const VARIABLE = "VLLM_ATTENTION_BACKEND";
  const PREFILL_DECODE = "VLLM_V1_USE_PREFILL_DECODE_ATTENTION";
  const USE_PREFILL_DECODE = "--attention-config.use_prefill_decode_attention";
  const SWITCHES = Object.keys(data.variables).filter((name) => data.variables[name].kind === "switch");
  const releaseName = (release) => (release === "pr-26980" ? "PR #26980" : release);

  // --- elements ----------------------------------------------------------------------------------
  const find = (id) => document.getElementById(id);
  const el = (tag, attributes, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== "")
      .flatMap((child) => (typeof child === "string" && tag !== "option" ? jointed(child) : child)));
    return node;
  };
  // A name may be broken after a joint, not within its words.
  const jointed = (text) => text.replace(/(\w(?:::|[-_/=,\]])|[a-zA-Z_]\.)(?=\w)/g, "$1\0").split("\0")
    .flatMap((part, i) => (i ? [document.createElement("wbr"), part] : [part]));
  const code = (text) => el("code", null, text);
  const joined = (list, between) => list.flatMap((item, i) => (i ? [between, item] : [item]));

  // --- addresses ---------------------------------------------------------------------------------
  const [SITE, here] = data.site;
  const label = (url) => {
    const file = url.match(/^https:\/\/github\.com\/[^/]+\/[^/]+\/blob\/v[\d.]+\/(.*)/);
    if (file) return file[1];
    const numbered = url.match(/^https:\/\/github\.com\/([^/]+\/[^/]+)\/(pull|issues)\/(\d+)/);
    if (numbered) {
      const place = numbered[1] === "vllm-project/vllm" ? "vLLM " : numbered[1];
      return `${place}${numbered[2] === "pull" ? "PR " : ""}#${numbered[3]}`;
    }
    return url.startsWith(SITE) ? `docs/${url.slice(SITE.length).replace(/\/(#.*)?$/, ".md$1")}` : url;
  };
  const link = (url, words) => el("a", {
    href: url.startsWith(SITE) ? here + url.slice(SITE.length) : url, target: "_blank", rel: "noopener noreferrer",
  }, words ?? label(url));
  const opened = (text) => text.split(/(https:\/\/[^\s,;)]+)/).map((part, i) => (i % 2 ? link(part) : part));

  // --- the question: what stands in the address, and in the form ---------------------------------
  const PLAIN = { release: data.newest, gpu: "gfx942", aiter: "present", environ: {}, request: {} };
  const folded = (name) => name.replace(/[\s_-]/g, "").toLowerCase().replace(/^amd/, "");
  const targetOf = (name) => (name in data.gpus ? name : data.product_names[folded(name)]);
  const NUMBERS = ["head_size", "block_size", "num_heads", "num_kv_heads", "sliding_window", "logits_soft_cap"];
  const CHOICES = ["dtype", "kv_cache_dtype", "attn_type", "run_kv_cache_dtype"];
  const KINDS = [["", "ordinary"], ["use_mla", "MLA"], ["use_sparse", "sparse"], ["use_mla use_sparse", "sparse MLA"]];
  const NEEDS = Object.keys(data.fields).filter(
    (name) => data.fields[name].type === "bool" && !["use_mla", "use_sparse"].includes(name));

  // The number that a text means; undefined if it is not one that the command would take.
  const numberOf = (name, text) => {
    const word = text.trim().toLowerCase();
    if (name === "block_size" && word === "none") return null;
    const fits = name === "logits_soft_cap" ? /^(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/ : /^\d+$/;
    const value = Number(word);
    return fits.test(word) && (name === "logits_soft_cap" ? Number.isFinite(value) : Number.isSafeInteger(value)) ? value : undefined;
  };
  const texts = (request) => Object.fromEntries(Object.entries(request).filter(([, value]) => value !== false).map(
    ([name, value]) => [name, value === true ? "1" : value === null ? "none" : String(value)]));
  const addressOf = ({ release, gpu, aiter, environ, request }) => {
    const parts = new URLSearchParams();
    for (const [name, value] of Object.entries({ release, gpu, aiter })) {
      if (value !== PLAIN[name]) parts.set(name, value);
    }
    for (const [name, text] of Object.entries({ ...environ, ...texts(request) })) parts.set(name, text);
    return parts.size ? `#${parts}` : "";
  };
  // The question of an address, and what of it could not be read.
  const readAddress = (hash) => {
    const asked = { ...PLAIN, environ: {}, request: {} };
    const unread = [];
    for (const [name, text] of new URLSearchParams(hash.replace(/^#/, ""))) {
      const variable = data.variables[name];
      const field = data.fields[name];
      const choices = variable?.kind === "name" ? variable.choices : variable ? ["0", "1"] : data.choices[name];
      const release = text.replace(/^v/, "");
      if (name === "release" && (release in data.policies || RELEASES.some((each) => each.startsWith(`${release}.`)))) {
        asked.release = release in data.policies ? release : RELEASES.find((each) => each.startsWith(`${release}.`));
      } else if (name === "gpu" && targetOf(text)) asked.gpu = productOf(text) ?? targetOf(text);
      else if (choices?.includes(text)) {
        if (variable) asked.environ[name] = text;
        else if (field) asked.request[name] = text;
        else asked[name] = text;
      } else if (field?.type === "bool" && text === "1") asked.request[name] = true;
      else if (NUMBERS.includes(name) && numberOf(name, text) !== undefined) asked.request[name] = numberOf(name, text);
      else unread.push(`${name}=${text}`);
    }
    return { asked, unread };
  };
  const productOf = (name) => (name in data.gpus ? undefined
    : data.gpus[targetOf(name)].products.find((product) => folded(product).endsWith(folded(name))));
  const resolved = (asked) => ({ ...asked, gpu: targetOf(asked.gpu) });
  const quoted = (text) => (/^[\w.=:/,@%+-]+$/.test(text) ? text : `'${text}'`);
  const command = ({ release, gpu, aiter, environ, request }) => {
    const words = ["rocm-attn", "explain"];
    for (const [name, text] of Object.entries(environ)) {
      if (name === OPTION) words.push(OPTION, text);
      else if (name === USE_PREFILL_DECODE) words.push("--use-prefill-decode-attention");
      else words.push(`${name}=${text}`);
    }
    words.push("--release", release, "--gpu", gpu, "--aiter", aiter);
    for (const [name, text] of Object.entries(texts(request))) {
      const [option, takesValue] = data.options[name];
      words.push(option, ...(takesValue ? [text] : []));
    }
    return words;
  };

  // --- the form ----------------------------------------------------------------------------------
  const controls = {}; // name -> [read, write, element]
  const field = (name, words, control, hint) => {
    control.id = `q-${name.replace(/\W+/g, "-")}`;
    control.name = name;
    const described = hint && `${control.id}-hint`;
    if (described) control.setAttribute("aria-describedby", described);
    return el("div", { class: "field" }, el("label", { for: control.id }, words), control,
      hint ? el("span", { class: "hint", id: described }, hint) : null);
  };
  const menu = (name, options) => {
    const node = el("select", null, options);
    controls[name] = [() => node.value, (text) => { node.value = text; }, node];
    return node;
  };
  const option = (value, words) => el("option", { value }, words ?? value);
  const entry = (name) => {
    const node = el("input", { type: "text", inputmode: name === "logits_soft_cap" ? "decimal" : "numeric", size: "6" });
    controls[name] = [() => node.value, (text) => { node.value = text; }, node];
    return node;
  };
  const check = (name) => {
    const node = el("input", { type: "checkbox" });
    controls[name] = [() => (node.checked ? "1" : ""), (text) => { node.checked = text === "1"; }, node];
    node.id = `q-${name}`;
    node.name = name;
    const meaning = data.options[name][2].replace(/^the layer has /, "").replace(/^the cache has /, "");
    return el("div", { class: "check" }, node, el("label", { for: node.id, title: name }, meaning[0].toUpperCase() + meaning.slice(1)));
  };
  const group = (legend, ...children) => el("fieldset", null, el("legend", null, legend), children);

  const gpuMenu = () => menu("gpu", Object.entries(data.gpus).map(([gfx, gpu]) => el("optgroup", { label: `${gfx}, ${gpu.family}` },
    option(gfx, gfx), gpu.products.map((product) => option(product, `${product.replace(/^(Instinct|Radeon) /, "")} (${gfx})`)))));
  const unset = (name) => (data.variables[name].kind === "name" ? "none" : `unset (${data.variables[name].default ? "on" : "off"})`);
  const variableMenu = (name) => {
    const values = name === USE_PREFILL_DECODE ? ["1"] : data.variables[name].kind === "name" ? data.variables[name].choices : ["0", "1"];
    const node = field(name, code(name), menu(name, [option("", unset(name)), values.map((text) => option(text))]), " ");
    node.classList.toggle("wide", data.variables[name].kind === "name");
    return node;
  };
  const form = find("question");
  form.append(
    group("Release and GPU",
      el("div", { class: "fields" },
        field("release", "vLLM", menu("release", RELEASES.map((release) => option(release, release === "pr-26980" ? "PR #26980 (the contract)" : release)))),
        field("gpu", "GPU", gpuMenu()),
        field("aiter", "AMD's aiter", menu("aiter", data.choices.aiter.map((state) => option(state)))))),
    group("Layer",
      el("div", { class: "fields" },
        field("kind", "Kind", menu("kind", KINDS.map(([value, words]) => option(value, words)))),
        field("attn_type", "Attention type", menu("attn_type", data.choices.attn_type.map((text) => option(text === "decoder" ? "" : text, text)))),
        field("head_size", "Head size", entry("head_size")),
        field("block_size", "Block size", entry("block_size")),
        field("dtype", "Dtype", menu("dtype", data.choices.dtype.map((text) => option(text === data.fields.dtype.default ? "" : text, text)))),
        field("kv_cache_dtype", "Cache dtype", menu("kv_cache_dtype", data.choices.kv_cache_dtype.map((text) => option(text === "auto" ? "" : text, text)))),
        field("sliding_window", "Sliding window", entry("sliding_window")),
        field("logits_soft_cap", "Soft cap", entry("logits_soft_cap")),
        field("num_heads", "Query heads", entry("num_heads")),
        field("num_kv_heads", "KV heads", entry("num_kv_heads")),
        field("run_kv_cache_dtype", "The run's cache dtype", menu("run_kv_cache_dtype",
          [option("", "as the layer's"), data.choices.run_kv_cache_dtype.map((text) => option(text))]))),
      el("div", { class: "checks" }, NEEDS.map(check))),
    group("Named", variableMenu(OPTION), variableMenu(VARIABLE)),
    group("Switches", SWITCHES.map(variableMenu)),
    el("div", { class: "bar" }, el("button", { type: "reset" }, "Ask a plain question"), copyButton(() => location.href, "Copy the link")),
  );
  function copyButton(text, words) {
    const button = el("button", { type: "button" }, words);
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text());
        button.textContent = "Copied";
      } catch { // not allowed, as in a file opened from a disk in some browsers
        prompt(words, text());
      }
      setTimeout(() => { button.textContent = words; }, 1500);
    });
    return button;
  }

  const write = ({ release, gpu, aiter, environ, request }) => {
    const all = { ...texts(request), ...environ, release, gpu, aiter };
    all.kind = ["use_mla", "use_sparse"].filter((name) => request[name]).join(" ");
    for (const [name, [, put]] of Object.entries(controls)) put(all[name] ?? "");
  };
  // The question of the form, and the names of the fields that cannot be read.
  const read = () => {
    const given = Object.fromEntries(Object.entries(controls).map(([name, [get]]) => [name, get().trim()]));
    const asked = { release: given.release, gpu: given.gpu, aiter: given.aiter, environ: {}, request: {} };
    const wrong = {};
    for (const [name, text] of Object.entries(given)) {
      if (text === "") continue;
      if (name in data.variables) asked.environ[name] = text;
      else if (name === "kind") for (const each of text.split(" ")) asked.request[each] = true;
      else if (NEEDS.includes(name)) asked.request[name] = true;
      else if (CHOICES.includes(name)) asked.request[name] = text;
      else if (NUMBERS.includes(name)) {
        const value = numberOf(name, text);
        if (value === undefined) wrong[name] = `${text} is not a ${name === "logits_soft_cap" ? "number" : "whole number"}${name === "block_size" ? ", or none" : ""}`;
        else asked.request[name] = value;
      }
    }
    return { asked, wrong };
  };

  // --- the answer --------------------------------------------------------------------------------
  const short = ({ backend, refused }) => (refused === null ? backend : "refused");
  const refusalOf = (text) => {
    const [rest, source] = text.split(/\. Source: (.*)$/s);
    const [problem, remedy] = rest.split(/\. Remedy: (.*)$/s);
    return { problem, remedy, source };
  };
  const refusalNodes = (text) => {
    const { problem, remedy, source } = refusalOf(text);
    const [, head, each] = problem.match(/^(no backend of .*? serves the request): (.*)$/s) ?? [null, problem, ""];
    const sources = source.split("; ");
    return [
      el("p", { class: "problem" }, opened(head[0].toUpperCase() + head.slice(1)), each ? ":" : "."),
      each ? el("ul", { class: "lacks" }, each.split(/; (?=[A-Z_]+ )/).map((one) => {
        const [name, ...lacks] = one.split(" ");
        return el("li", null, code(name), " ", lacks.join(" "));
      })) : null,
      remedy ? el("p", null, el("strong", null, "Remedy: "), remedy, ".") : null,
      sources.length < 3 ? el("p", { class: "source" }, opened(source)) : el("details", null,
        el("summary", null, `${sources.length} sources`), el("ul", { class: "source" }, sources.map((one) => el("li", null, opened(one))))),
    ];
  };
  const drawTrace = (trace) => {
    let before = null;
    const rows = trace.map((step) => {
      const { rule, answer, reason, source } = step;
      const again = source === before;
      before = source;
      return el("li", { class: rocm.isLacking(step) ? "is-lacking" : answer === "no" ? "is-no" : rule === "decision" ? "is-decision" : "" },
        el("span", { class: "rule" }, code(rule)), el("span", { class: "answer" }, answer),
        answer === "refused" ? el("span", null, "refused, as stated at the top") : el("span", null, opened(reason), again ? null : el("span", { class: "source" }, " ", opened(source))));
    });
    find("trace").replaceChildren(...rows);
  };
  const waysNodes = (ways) => joined(ways.map((way) => {
    const set = Object.entries(way).map(([name, text]) => code(name.startsWith("--") ? `${name} ${text}` : `${name}=${text}`));
    return set.length ? el("span", { class: "way" }, joined(set, " ")) : el("span", { class: "way" }, "nothing set");
  }), el("span", { class: "or" }, " or "));
  const drawElsewhere = ({ policy, asked }, found) => {
    const names = data.backends.filter((name) => rocm.known(name, asked, policy));
    const all = names.map((name) => [name, rocm.howToGet(name, asked, policy)]);
    const reached = all.filter(([, how]) => how.ways.length);
    const others = all.filter(([, how]) => !how.ways.length);
    const current = (name) => found.refused === null && found.backend === name;
    find("elsewhere").replaceChildren(
      el("p", { class: "quiet" }, "The smallest settings, with everything else unset, that give each backend to this layer on this GPU."),
      reached.length ? el("dl", { class: "ways" }, reached.map(([name, how]) => [
        el("dt", { class: current(name) ? "current" : "" }, code(name), current(name) ? el("span", { class: "quiet" }, " (now)") : null),
        el("dd", null, waysNodes(how.ways))])) : el("p", null, "No setting gives this layer a backend on this GPU."),
      others.length ? el("details", null, el("summary", null, `${others.length} that no setting leads to`),
        el("dl", { class: "ways" }, others.map(([name, how]) => [el("dt", null, code(name)),
          el("dd", null, opened(refusalOf(how.refused).problem.replace(`${name} `, "")))]))) : "",
    );
  };
  const ask = (asked) => {
    const { policy, asked: meant } = rocm.question(asked);
    return short(rocm.attempt(meant, policy));
  };
  // Buttons of what the question may be changed to, by what is answered then.
  const drawChoices = (place, name, values, words, found) => {
    const groups = new Map();
    for (const value of values) {
      const answer = ask(resolved({ ...shown, [name]: value }));
      if (!groups.has(answer)) groups.set(answer, []);
      groups.get(answer).push(value);
    }
    const now = short(found);
    const order = [...groups].sort(([a], [b]) => (b === now) - (a === now));
    const isCurrent = (value) => (name === "gpu" ? targetOf(shown.gpu) : shown[name]) === value;
    find(place).replaceChildren(
      el("p", { class: "quiet" }, groups.size === 1 ? `The answer is the same ${place === "gpus" ? "on" : "in"} all of them.` : "Choose one to ask it the same question."),
      el("dl", { class: "choices" }, order.map(([answer, members]) => [
        el("dt", { class: answer === now ? "current" : "" }, code(answer), answer === now ? el("span", { class: "quiet" }, " (the same)") : null),
        el("dd", null, members.map((value) => el("button", {
          type: "button", class: "toggle", "aria-pressed": String(isCurrent(value)), "data-value": value,
          onclick: () => {
            change({ ...shown, [name]: value });
            find(place).querySelector(`[data-value="${CSS.escape(value)}"]`).focus();
          },
        }, words(value))))])));
  };

  // --- what stands behind it ---------------------------------------------------------------------
  const { rows, defects, families, recordings } = data.evidence;
  const numbers = (release) => (release === "pr-26980" ? [0, 12, 0] : release.split(".").map(Number));
  const before = (a, b) => { // of two releases
    const at = a.findIndex((part, i) => part !== b[i]);
    return at >= 0 && a[at] < b[at];
  };
  const holdsIn = ({ since, until }, release) => !before(numbers(release), since) && before(numbers(release), until);
  const meaning = (name, text) => (text === undefined ? data.variables[name].default
    : data.variables[name].kind === "name" ? (text === "auto" ? null : text) : ["1", "true"].includes(text.toLowerCase()));
  const namedBy = (environ, policy) => {
    const names = policy.branches.at(-1).named_by.map((by) => environ[by]).filter((text) => text && text !== "auto");
    return names[0] ?? null;
  };
  const meantBy = new Map(rows.map((row) => [row, rocm.requestOf(row.request)]));
  // Whether everything that a row sets and asks is set and asked by the question too.
  const covers = (row, environ, policy, meant) => Object.entries(row.env).every(([name, text]) => name in data.variables
      && meaning(name, environ[name]) === meaning(name, text))
    && (row.named === null || row.named === namedBy(environ, policy))
    && row.aiter === meant.gpu.aiter
    && Object.entries(row.request).every(([name]) => meant.request[name] === meantBy.get(row)[name]);
  const isExactly = (row, environ, policy, meant) => Object.keys(data.variables).every((name) => data.variables[name].kind === "name"
      || meaning(name, environ[name]) === meaning(name, row.env[name]))
    && Object.keys(row.env).every((name) => name in data.variables && data.variables[name].kind === "switch")
    && row.named === namedBy(environ, policy)
    && Object.keys(data.fields).every((name) => meant.request[name] === meantBy.get(row)[name]);
  const promisesOf = (asked, policy, meant) => rows.filter((row) => holdsIn(row, asked.release) && row.gpus.includes(meant.gpu.gfx)
    && row.aiter === meant.gpu.aiter && isExactly(row, asked.environ, policy, meant));
  const defectsOf = (asked, policy, meant, found) => defects.filter((defect) => {
    if (!holdsIn(defect, asked.release)) return false;
    const answers = defect.answers.map((name) => (name === "named" ? namedBy(asked.environ, policy) : name));
    if (!answers.includes(found.refused === null ? found.backend : "refusal")) return false;
    if (found.refused !== null && !defect.mentions.every((word) => found.refused.toLowerCase().includes(word.toLowerCase()))) return false;
    return defect.about.some(([number, gpus]) => gpus.includes(meant.gpu.gfx) && holdsIn(rows[number], asked.release)
      && covers(rows[number], asked.environ, policy, meant));
  });
  const keeps = (row, found) => {
    const answer = found.refused === null ? found.backend : null;
    if ("never" in row.meant) return row.meant.never.length ? !row.meant.never.includes(answer) : answer !== null;
    return row.meant.one.length ? row.meant.one[0] === answer : answer === null;
  };
  const LEVELS = { required: "Promised", advisory: "Advisory", observed: "Observed", advice: "Advice" };
  const LEVEL_WORDS = {
    observed: "the release answers so, and the contract does not require it",
    advice: "valid, but upstream has found something better",
    advisory: "beyond what a document or pull request promises",
  };
  // The outcome that was recorded of the unmodified release for exactly this question; null if there is none.
  const recordedOf = (asked, policy, meant) => {
    const recording = recordings[asked.release];
    if (!recording) return null;
    const renamed = { [OPTION]: VARIABLE, [USE_PREFILL_DECODE]: PREFILL_DECODE };
    const environ = {};
    for (const [name, text] of Object.entries(asked.environ)) {
      if (!policy.reads.includes(name)) continue; // it cannot matter
      const old = name in renamed && !policy.reads.includes(renamed[name]) ? renamed[name] : name;
      if (old in renamed) return null; // the recordings name backends in one way only
      environ[old] = text;
    }
    for (const family of families) {
      const places = family.axes.map((axis) => {
        if (axis.name === "gfx") return axis.values.indexOf(meant.gpu.gfx);
        if (axis.name === "aiter") return axis.values.indexOf(meant.gpu.aiter);
        if (axis.name === "also") return axis.values.findIndex((value) => !value.length);
        if (axis.name === "request") return axis.values.findIndex((value) => same(rocm.requestOf(value), meant.request));
        const exact = axis.values.indexOf(environ[axis.name] ?? null);
        if (exact >= 0 || axis.name === VARIABLE) return exact;
        return meaning(axis.name, environ[axis.name]) === data.variables[axis.name].default ? axis.values.indexOf(null) : -1;
      });
      const known = family.axes.map((axis) => axis.name);
      const left = Object.keys(environ).filter((name) => !known.includes(name) && !(name !== VARIABLE
        && meaning(name, environ[name]) === data.variables[name]?.default));
      if (left.length || places.some((place) => place < 0)) continue;
      const levels = recording.families[family.name];
      return recording.outcomes[places.reduce((row, place, level) => entryOf(levels[level][row], place), 0)];
    }
    return null;
  };
  const same = (a, b) => Object.keys(data.fields).every((name) => a[name] === b[name]);
  const entryOf = (row, place) => { // "0*3 2 0" is 0, 0, 0, 2, 0
    for (const word of row.split(" ")) {
      const [value, times] = word.split("*").map(Number);
      if (place < (times ?? 1)) return value;
      place -= times ?? 1;
    }
    throw new RangeError("a recording has a row that does not fit its axis");
  };
  const evidence = (asked) => {
    const { policy, asked: meant } = rocm.question(asked);
    const found = rocm.attempt(meant, policy);
    const promises = promisesOf(asked, policy, meant);
    return {
      promises, broken: promises.filter((row) => !keeps(row, found)), defects: defectsOf(asked, policy, meant, found),
      recorded: recordedOf(asked, policy, meant),
    };
  };
  const drawEvidence = (asked) => {
    const { promises, broken, defects: known, recorded } = evidence(asked);
    const page = asked.release === "pr-26980" ? "reference/contract/" : `releases/${asked.release}/`;
    const kept = (row) => !broken.includes(row);
    const items = promises.map((row) => el("li", { class: kept(row) ? "" : "is-no" },
      el("span", { class: "tag" }, LEVELS[row.level]), " ", code(row.id), `: ${row.expect}.`,
      kept(row) ? "" : el("strong", null, " The release answers differently."),
      LEVEL_WORDS[row.level] ? ` (${LEVEL_WORDS[row.level]}.)` : "",
      el("span", { class: "source" }, " ", opened(row.source)), row.note ? el("span", { class: "source" }, ` ${row.note}`) : null));
    if (recorded) {
      items.push(el("li", null, el("span", { class: "tag" }, "Recorded"), " ",
        `unmodified vLLM ${asked.release}, on a mocked GPU: `, code(recorded.words), ". ",
        recorded.message ? el("span", { class: "source" }, recorded.message) : null,
        el("span", { class: "source" }, " ", link(`${SITE}baselines/`))));
    }
    if (!items.length) {
      items.push(el("li", null, el("span", { class: "tag" }, "Read off the code"), " ",
        "no promise and no recording is about exactly this question; the answer follows from the sources that the reasons name."));
    }
    find("evidence").replaceChildren(
      el("ul", { class: "evidence" }, known.map((defect) => el("li", { class: "is-no" },
        el("span", { class: "tag" }, "Known defect"), " ", `${defect.what}. `, link(defect.link))), items),
      el("p", { class: "quiet" }, asked.release === "pr-26980" ? "Row by row: " : `All promises and known defects of ${asked.release}: `, link(SITE + page)));
    find("first").replaceChildren(...known.map((defect) => el("p", { class: "note defect" },
      el("strong", null, "Known defect. "), `${defect.what}. `, link(defect.link))),
    ...promises.filter((row) => (kept(row) ? row.level === "observed" : !known.length)).map((row) => el("p", { class: "note" },
      el("strong", null, kept(row) ? "Observed. " : "Against a promise. "),
      kept(row) ? "The release answers so, and the contract does not require it. " : `${row.id}: ${row.expect}. `, opened(row.source))));
  };

  // --- one state ---------------------------------------------------------------------------------
  let shown = PLAIN;
  const draw = (wrong = {}, unread = []) => {
    const details = find("details");
    for (const [name, [, , node]] of Object.entries(controls)) node.setAttribute("aria-invalid", String(name in wrong));
    const asked = resolved(shown);
    const policy = data.policies[asked.release];
    let problem = Object.entries(wrong).map(([name, words]) => `${name}: ${words}`)[0];
    let meant;
    let found;
    try {
      meant = rocm.question(asked);
      found = rocm.attempt(meant.asked, policy);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      problem ??= error.message;
    }
    for (const name of Object.keys(data.variables)) {
      const why = policy.ignored[name];
      const idle = !why && !policy.reads.includes(name) && name !== "VLLM_MLA_DISABLE";
      const node = controls[name][2];
      const hint = find(`${node.id}-hint`);
      hint.replaceChildren(...jointed(why ? `not read: ${why}` : idle ? "changes nothing here" : data.variables[name].effect));
      node.parentElement.classList.toggle("idle", Boolean(why) || idle);
    }
    for (const name of ["head_size", "num_heads", "num_kv_heads", "block_size", "sliding_window", "logits_soft_cap"]) {
      const value = meant?.asked.request[name] ?? "none";
      controls[name][2].placeholder = String(value);
    }
    const gpu = shown.gpu === asked.gpu ? asked.gpu : `${shown.gpu} (${asked.gpu})`;
    const where = `vLLM ${asked.release} on ${gpu}, aiter ${asked.aiter}`.replace("vLLM pr-26980", "PR #26980");
    find("headline").classList.toggle("bad", Boolean(problem) || found?.refused !== null);
    details.hidden = Boolean(problem);
    if (problem) {
      find("answer").replaceChildren("Not a question");
      find("asked").replaceChildren(...jointed(problem));
      return;
    }
    find("answer").replaceChildren(...jointed(found.refused === null ? found.backend : `Refused${found.backend ? `: ${found.backend}` : ""}`));
    find("asked").replaceChildren(...jointed(where));
    drawEvidence(asked);
    const words = command(shown).map(quoted).join(" ");
    find("first").prepend(...[
      found.refused === null ? el("p", { class: "path" }, code(found.class_path)) : el("div", { class: "refusal" }, refusalNodes(found.refused)),
      ...[meant.note, ...meant.idle, ...unread.map((text) => `the address has ${text}, which this page cannot read`)].filter(Boolean)
        .map((text) => el("p", { class: "note" }, opened(text))),
    ]);
    find("first").append(el("div", { class: "command" }, code(words), copyButton(() => words, "Copy")));
    drawTrace(found.trace);
    drawElsewhere({ policy, asked: meant.asked }, found);
    drawChoices("releases", "release", RELEASES, releaseName, found);
    drawChoices("gpus", "gpu", Object.keys(data.gpus), (gfx) => gfx, found);
  };
  const change = (asked) => {
    shown = asked;
    write(asked);
    history.replaceState(null, "", addressOf(asked) || location.pathname + location.search);
    draw();
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    const { asked, wrong } = read();
    shown = asked;
    history.replaceState(null, "", addressOf(asked) || location.pathname + location.search);
    draw(wrong);
  });
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    change({ ...PLAIN, release: shown.release, gpu: shown.gpu });
  });
  const fromAddress = () => {
    const { asked, unread } = readAddress(location.hash);
    shown = asked;
    write(asked);
    draw({}, unread);
  };
  addEventListener("hashchange", fromAddress);
  for (const skip of document.querySelectorAll("a[href='#why']")) {
    skip.addEventListener("click", (event) => { // the fragment is the question's
      event.preventDefault();
      find("details").scrollIntoView();
      find("why").focus({ preventScroll: true });
    });
  }
  find("tool").replaceChildren(`Made by pytest-rocm-attn ${data.version} from its policies of vLLM's releases. `,
    link(`${SITE}atlas/`, "How this page is made"), ".");
  fromAddress();
  document.documentElement.dataset.ready = String(Math.round(performance.now())); // milliseconds
  return {
    answer: (question) => rocm.answer(resolved(question)), command, evidence: (question) => evidence(resolved(question)), addressOf, readAddress,
    howToGet: (question) => {
      const { policy, asked } = rocm.question(resolved(question));
      return Object.fromEntries(data.backends.filter((name) => rocm.known(name, asked, policy)).map((name) => [name, rocm.howToGet(name, asked, policy)]));
    },
  };
})();
