"use strict";
// The reference selector over the tables that tables.py wrote: the same steps in the same order as selector.py,
// inverse.py and `rocm-attn explain`, whose answers tests/backends/atlas compares with these.
const selector = (data) => {
  const S = data.strings;
  const LIMITS = data.limits.map(([rule, holds, within, beyond, remedy, source, quiet]) => ({
    rule: S[rule], holds, within: S[within], beyond: S[beyond], remedy: S[remedy], source: S[source], quiet: quiet === 1,
  }));

  // --- conditions --------------------------------------------------------------------------------
  const compare = {
    "==": (a, b) => a === b, "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
  };
  const fact = ([subject, name, ...rest], asked) => {
    if (subject === "request") return asked.request[name];
    if (subject === "none") return asked.request[name] === null;
    if (subject === "flag") return asked.flags[name];
    if (subject === "gpu") return asked.gpu[name];
    const value = asked.request[subject];
    if (name !== "%") return compare[name](value, rest[0]);
    return compare[rest[1]](value % rest[0], rest[2]);
  };
  const holds = (node, asked) => {
    while (node > 1) {
      const [atom, otherwise, branches] = data.nodes[node - 2];
      node = branches[String(fact(data.atoms[atom], asked))] ?? otherwise;
    }
    return node === 1;
  };

  // --- words -------------------------------------------------------------------------------------
  const step = (rule, answer, reason, source) => ({ rule, answer, reason, source });
  const unique = (list) => [...new Set(list)];
  const real = (value) => { // as Python writes a float
    if (Number.isInteger(value) && Math.abs(value) < 1e16) return `${value}.0`;
    const [digits, exponent] = value.toExponential().split("e");
    if (Number(exponent) >= -4 && Number(exponent) < 16) return String(value);
    return `${digits}e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
  };
  const written = (name, value) => {
    if (value === null) return "None";
    if (typeof value === "boolean") return value ? "True" : "False";
    return typeof value === "number" && data.fields[name]?.type.startsWith("float") ? real(value) : String(value);
  };
  const refusal = (limit, asked) => limit.beyond.replace(/\{(request|gpu)\.(\w+)(!r)?\}/g, (_, subject, name, quoted) => {
    const value = written(name, asked[subject][name]);
    return quoted && typeof asked[subject][name] === "string" ? `'${value}'` : value;
  });
  const lacking = new WeakSet(); // the steps in which a backend falls short, to be drawn differently
  const unmet = (limit, asked, backend) => {
    const words = refusal(limit, asked);
    const found = step(limit.rule, "no", backend ? `${backend} ${words}` : words, limit.source);
    lacking.add(found);
    return found;
  };
  const met = (limit) => step(limit.rule, "yes", limit.within, limit.source);
  const messageOf = (problem, remedies, source) => (
    `${problem}${remedies.length ? `. Remedy: ${remedies.join("; or ")}` : ""}. Source: ${source}`);

  class Refusal extends Error {
    constructor(message, backend, trace) {
      super(message);
      Object.assign(this, { backend, trace });
    }
  }
  const refused = (backend, problem, remedies, source, trace) => {
    trace.push(step("decision", "refused", problem, source));
    return new Refusal(messageOf(problem, remedies, source), backend, trace);
  };

  // --- selection ---------------------------------------------------------------------------------
  const limitsOf = (policy, name) => (policy.limits[name] || []).map((number) => LIMITS[number]);
  const beyondOf = (limits, asked) => limits.filter((limit) => !holds(limit.holds, asked));
  const serves = (policy, name, asked) => !beyondOf(limitsOf(policy, name), asked).length;
  const served = (policy, name) => {
    const limits = limitsOf(policy, name);
    const quiet = limits.filter((limit) => limit.quiet);
    const path = S[policy.class_paths[name]];
    const steps = limits.filter((limit) => !limit.quiet).map(met);
    if (quiet.length) {
      const rules = quiet.map((limit) => limit.rule).join(", ");
      steps.push(step("needs", "yes", `the layer needs none of these, or the class declares it: ${rules}`, quiet[0].source));
    }
    return [...steps, step("decision", name, `${name} serves the request`, path)];
  };
  const branchOf = (policy, asked, trace) => {
    for (const branch of policy.branches) {
      const takes = holds(branch.takes, asked);
      trace.push(step(branch.name, takes ? "yes" : "no", takes ? branch.yes : branch.no, S[branch.source]));
      if (takes) return branch;
    }
    throw new Error(`${policy.name}: no branch takes the request`);
  };
  const setName = (branch, names) => `set ${branch.named_by.at(-1)} to ${names.join(", ")}`;
  const within = (beyond) => {
    const remedies = beyond.map((limit) => limit.remedy);
    return remedies.every(Boolean) ? [remedies.join(" and ")] : [];
  };
  const otherNames = (branch, asked, policy) => {
    const serving = branch.named.filter((name) => serves(policy, name, asked));
    return serving.length ? [setName(branch, serving)] : [];
  };
  const but = (asked, name, on) => ({ ...asked, flags: { ...asked.flags, [name]: on } });
  const otherSwitches = (branch, asked, policy) => {
    const read = branch.rules.flatMap((rule) => rule.when.map((each) => each.variable)).filter(Boolean);
    return unique(read).flatMap((name) => {
      const changed = but(asked, name, !asked.flags[name]);
      const rule = branch.rules.find((each) => each.when.every((one) => holds(one.holds, changed))
        && serves(policy, each.backend, asked));
      return rule ? [`set ${name}=${asked.flags[name] ? "0" : "1"}, which gives ${rule.backend}`] : [];
    });
  };
  const otherFlags = (rule, asked, policy) => [
    ...(rule.otherwise ? [rule.otherwise] : []),
    ...rule.when.map((each) => each.variable).filter(Boolean).flatMap((name) => {
      const instead = attempt(but(asked, name, false), policy);
      return instead.refused === null ? [`set ${name}=0, which gives ${instead.backend}`] : [];
    }),
  ];
  const judged = (limits, beyond, asked) => limits
    .filter((limit) => beyond.includes(limit) || !limit.quiet)
    .map((limit) => (beyond.includes(limit) ? unmet(limit, asked) : met(limit)));
  const beyondLimits = (backend, beyond, rule, branch, asked, policy, trace) => {
    trace.push(...judged(limitsOf(policy, backend), beyond, asked));
    const naming = branch.named_by.find((by) => asked.flags[by] !== null) ?? "";
    const how = rule === null ? `named by ${naming}` : `chosen by the rule ${rule.name}`;
    return refused(
      backend, `${backend} (${how}) ${beyond.map((limit) => refusal(limit, asked)).join("; it ")}`,
      [...within(beyond), ...otherNames(branch, asked, policy), ...(rule ? otherFlags(rule, asked, policy) : [])],
      unique(beyond.map((limit) => limit.source)).join("; "), trace);
  };
  const givesWay = (way, beyond, asked) => {
    if (way === null) return false;
    const all = beyond.map((limit) => limit.rule);
    const others = all.filter((rule) => rule !== "layout");
    const rules = others.length ? others : all;
    return (!way.alone.length || (rules.length === 1 && way.alone.includes(rules[0]))) && holds(way.when, asked);
  };
  const automatic = (branch, asked, policy, trace) => {
    if (branch.refuses) throw refused(null, branch.refuses, [], S[branch.source], trace);
    const passed = [];
    for (const rule of branch.rules) {
      const failed = rule.when.find((each) => !holds(each.holds, asked));
      if (failed) {
        trace.push(step(rule.name, "no", failed.no, S[rule.source]));
        continue;
      }
      trace.push(step(rule.name, "yes", rule.applies, S[rule.source]));
      const beyond = beyondOf(limitsOf(policy, rule.backend), asked);
      if (!beyond.length) {
        return { backend: rule.backend, trace: [...trace, ...served(policy, rule.backend)] };
      }
      if (!branch.tries_next) throw beyondLimits(rule.backend, beyond, rule, branch, asked, policy, trace);
      trace.push(...beyond.map((limit) => unmet(limit, asked, rule.backend)));
      const before = passed.find(([backend]) => backend === rule.backend);
      if (before) before[1] = beyond;
      else passed.push([rule.backend, beyond]);
    }
    const limits = passed.flatMap(([, beyond]) => beyond);
    const lacks = passed.map(([backend, beyond]) => (
      `${backend} ${beyond.map((limit) => refusal(limit, asked)).join(", and ")}`));
    throw refused(
      null, `no backend of ${policy.name} serves the request: ${lacks.join("; ")}`,
      [...within(passed.length === 1 ? limits : []), ...otherNames(branch, asked, policy),
        ...otherSwitches(branch, asked, policy)],
      unique(limits.map((limit) => limit.source)).join("; "), trace);
  };
  const select = (given, policy) => {
    const trace = [];
    let asked = given;
    for (const [variable, name] of policy.sets) {
      if (asked.flags[variable] && !asked.request[name]) {
        trace.push(step(variable, "yes", `${variable} is on, which sets ${name}`, policy.name));
        asked = { ...asked, request: { ...asked.request, [name]: true } };
      }
    }
    const branch = branchOf(policy, asked, trace);
    const by = branch.named_by.find((each) => asked.flags[each] !== null);
    const unnamed = () => {
      trace.push(step("named", "no", branch.unnamed, S[branch.named_source]));
      return automatic(branch, asked, policy, trace);
    };
    if (by === undefined) return unnamed();
    const named = asked.flags[by];
    if (!data.names[branch.names].includes(named)) {
      throw refused(named, `${by}=${named}: ${policy.name} has no backend of that name.${data.nearest[branch.names][named] ?? ""}`,
        [setName(branch, branch.named)], S[branch.named_source], trace);
    }
    if (!branch.named.length) return unnamed();
    trace.push(step("named", "yes", `${by} names ${named}, which is taken or refused, never replaced`, S[branch.named_source]));
    if (!branch.named.includes(named)) {
      throw refused(named, `${by}=${named}: ${named} ${branch.not_named}`, [setName(branch, branch.named)],
        S[branch.named_source], trace);
    }
    const limits = [...limitsOf(policy, named), ...(policy.when_named[named] || []).map((number) => LIMITS[number])];
    const beyond = beyondOf(limits, asked);
    if (!beyond.length) return { backend: named, trace: [...trace, ...served(policy, named)] };
    if (givesWay(policy.gives_way, beyond, asked)) {
      trace.push(...judged(limits, beyond, asked),
        step("named-gives-way", "yes", policy.gives_way.why, S[branch.named_source]));
      return automatic(branch, asked, policy, trace);
    }
    throw beyondLimits(named, beyond, null, branch, asked, policy, trace);
  };
  // What select() gives or refuses with, as `rocm-attn explain --json` names it.
  function attempt(asked, policy) {
    try {
      const { backend, trace } = select(asked, policy);
      return { backend, class_path: S[policy.class_paths[backend]], refused: null, trace };
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return { backend: error.backend, class_path: null, refused: error.message, trace: error.trace };
    }
  }

  // --- the question, as explain takes it ---------------------------------------------------------
  const parsed = (name, text) => {
    const variable = data.variables[name];
    if (variable.kind === "name") return text.toLowerCase() === "auto" ? null : text.toUpperCase();
    return ["1", "true"].includes(text.toLowerCase());
  };
  const flagsOf = (environ) => Object.fromEntries(Object.entries(data.variables).map(
    ([name, variable]) => [name, name in environ ? parsed(name, environ[name]) : variable.default]));
  // The request that fields mean; an Error in the words of RequestError for what no layer has.
  const requestOf = (given) => {
    const request = Object.fromEntries(Object.entries(data.fields).map(([name, field]) => [name, given[name] ?? (name in given ? null : field.default)]));
    const latent = request.use_mla;
    request.head_size ||= latent ? 576 : 128;
    request.num_heads ||= latent ? 16 : 32;
    request.num_kv_heads ||= latent ? 1 : Math.max(1, Math.floor(request.num_heads / 4));
    const require = (fits, name, wanted) => {
      if (!fits) throw new RangeError(`request: ${name} is ${written(name, request[name])}; it must be ${wanted}`);
    };
    require(request.head_size > 0, "head_size", "a positive number of elements");
    require(request.block_size === null || request.block_size > 0, "block_size", "a positive number of tokens, or none");
    require(request.sliding_window === null || request.sliding_window > 0, "sliding_window", "a positive number of tokens, or none");
    require(request.num_heads > 0, "num_heads", "a positive number");
    require(request.num_kv_heads > 0 && request.num_heads % request.num_kv_heads === 0, "num_kv_heads",
      `a positive divisor of num_heads=${request.num_heads}`);
    require(request.logits_soft_cap === null || request.logits_soft_cap > 0, "logits_soft_cap", "a positive number, or none");
    return request;
  };
  const MLA_DISABLE = "VLLM_MLA_DISABLE";
  // What is asked of a policy, and notes on what has no effect.
  const question = ({ release, gpu, aiter, environ, request }) => {
    const policy = data.policies[release];
    const read = Object.fromEntries(Object.entries(environ).filter(([name]) => !(name in policy.ignored)));
    const flags = flagsOf(read);
    let layer = requestOf(request);
    let note = null;
    if (layer.use_mla && flags[MLA_DISABLE]) {
      const ordinary = { head_size: 192, num_heads: layer.num_heads, num_kv_heads: layer.num_heads };
      layer = requestOf({ ...ordinary, ...request, use_mla: false });
      note = `${MLA_DISABLE} is on: the MLA model runs as ordinary attention`;
    }
    const idle = Object.keys(environ).flatMap((name) => {
      if (policy.ignored[name]) return [`${policy.name} does not read ${name}: ${policy.ignored[name]}`];
      if (policy.reads.includes(name) || name === MLA_DISABLE) return [];
      return [`${name} does not change what ${policy.name} selects`];
    });
    return { policy, asked: { request: layer, flags, gpu: { ...data.gpus[gpu], aiter } }, note, idle };
  };
  const answer = (given) => {
    const { policy, asked, note, idle } = question(given);
    return { ...attempt(asked, policy), note, doubts: idle };
  };

  // --- the inverse -------------------------------------------------------------------------------
  function* combinations(list, size, from = 0) {
    if (size === 0) yield [];
    else {
      for (let at = from; at <= list.length - size; at += 1) {
        for (const rest of combinations(list, size - 1, at + 1)) yield [list[at], ...rest];
      }
    }
  }
  const unreachable = (backend, branch, asked, policy) => {
    if (branch.refuses) return messageOf(`${backend} ${branch.refuses}`, [], S[branch.source]);
    if (!branch.named.includes(backend)) return messageOf(`${backend} ${branch.not_named}`, [], S[branch.named_source]);
    const beyond = beyondOf(limitsOf(policy, backend), asked);
    return messageOf(`${backend} ${beyond.map((limit) => refusal(limit, asked)).join("; it ")}`, within(beyond),
      unique(beyond.map((limit) => limit.source)).join("; "));
  };
  // The smallest environments that lead to a backend, or why none does.
  const howToGet = (backend, asked, policy) => {
    const branch = branchOf(policy, asked, []);
    const layers = policy.sets.map(([variable]) => variable);
    const names = policy.reads.filter((name) => !layers.includes(name));
    const texts = Object.fromEntries(names.map((name) => [name,
      branch.named_by.includes(name) ? backend : data.variables[name].default ? "0" : "1"]));
    const leads = (environ) => {
      const found = attempt({ ...asked, flags: flagsOf(environ) }, policy);
      return found.refused === null && found.backend === backend;
    };
    for (let size = 0; size < names.length; size += 1) {
      const ways = [...combinations(names, size)]
        .map((some) => Object.fromEntries(some.map((name) => [name, texts[name]]))).filter(leads);
      if (ways.length) return { ways, refused: null };
    }
    const instead = attempt({ ...asked, flags: flagsOf({ [branch.named_by.at(-1)]: backend }) }, policy);
    if (instead.refused !== null) return { ways: [], refused: unreachable(backend, branch, asked, policy) };
    const { source } = instead.trace.find((each) => each.rule === "named");
    return { ways: [], refused: `no variable leads to ${backend}: such a request always gets ${instead.backend}. Source: ${source}` };
  };
  const known = (backend, asked, policy) => data.names[branchOf(policy, asked, []).names].includes(backend);

  return { answer, attempt, howToGet, isLacking: (found) => lacking.has(found), known, question, requestOf };
};
