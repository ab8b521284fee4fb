"use strict";
// Draws the page from the JSON block. Texts from data go through textContent or the value of an attribute only.
(() => {
  const data = JSON.parse(document.getElementById("payload").textContent);
  const SHOWN_AT_FIRST = 100;
  const COLOURS = 8;
  const collator = new Intl.Collator("en", { numeric: true });
  const byId = (id) => document.getElementById(id);
  const distinct = (values) => [...new Set(values)];
  const lower = (texts) => texts.join(" ").toLowerCase();

  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat().filter((child) => child != null && child !== ""));
    return node;
  }
  const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
  const SVG = "http://www.w3.org/2000/svg";
  const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

  // Columns {name: values} as rows, and rows in groups of equal keys, in the order of their first rows.
  const rowsOf = (columns) => (Object.values(columns)[0] || []).map((_, at) =>
    Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values[at]])));
  function groups(rows, key) {
    const members = new Map();
    for (const row of rows) {
      const name = key(row);
      if (!members.has(name)) members.set(name, []);
      members.get(name).push(row);
    }
    return members;
  }

  // Digits after the point; 0 for a number that is rounded to significant digits already.
  const number = (value, digits = 1) => (value == null ? "–" : digits ? value.toFixed(digits) : String(value));
  const signed = (value, digits) => (value > 0 ? "+" : value < 0 ? "−" : "") + number(Math.abs(value), digits);
  const interval = (row) => (row.low == null || row.high == null ? "" : `[${number(row.low, row.digits)}, ${number(row.high, row.digits)}]`);
  const way = (row) => `${row.higher ? "higher" : "lower"} is better`;
  const joined = (texts, by) => texts.filter(Boolean).join(by);

  // Kinds of columns: {title, cell(row) -> text or node, key(row) -> sorted by, number, down, head, words, optional}.
  const text = (title, name, more = {}) => ({ title, cell: (row) => row[name] || "–", ...more });
  const amount = (title, name, more = {}) =>
    ({ title, number: true, cell: (row) => number(row[name], row.digits), key: (row) => row[name], ...more });
  const count = (title, name) => amount(title, name, { cell: (row) => String(row[name]) });
  const MODEL = text("model", "model", { head: true });
  const LAYER = text("layer", "layer", { number: true, down: false });
  const scoreNode = (row) => el("span", { class: joined([row.mark?.replace(" ", "-"), row.chance ? "chance" : ""], " ") || null }, number(row.value, row.digits));
  const below = (content) => (content ? el("small", { class: "below" }, content) : "");

  // A table that the buttons in its head sort; a long one shows its first rows and a button for the rest.
  function table(caption, columns, rows, tall = false) {
    // Columns that are optional and the same in all rows are left out.
    const informative = columns.filter((column) => !column.optional || distinct(rows.map((row) => column.cell(row))).length > 1);
    const body = el("tbody");
    const more = el("button", { type: "button", class: "more", onclick: () => { limit = Infinity; draw(); } });
    let [limit, kept, sorted, down] = [SHOWN_AT_FIRST, rows, null, false];
    const missing = (value) => value == null || value === "" || value === "–";
    function compare(one, other) {
      const [a, b] = [one, other].map(sorted.key || sorted.cell);
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      return (down ? -1 : 1) * (typeof a === "number" ? a - b : collator.compare(a, b));
    }
    function draw() {
      const ordered = sorted ? [...kept].sort(compare) : kept;
      body.replaceChildren(...ordered.slice(0, limit).map((row) => el("tr", {}, informative.map((column) =>
        el(column.head ? "th" : "td", { scope: column.head ? "row" : null, class: column.number ? "number" : column.words ? "words" : null },
          column.cell(row) ?? "–")))));
      more.hidden = ordered.length <= limit;
      more.textContent = `Show all ${ordered.length} rows`;
    }
    const heads = informative.map((column) => el("th", { scope: "col", class: column.number ? "number" : null },
      el("button", { type: "button", onclick: (event) => {
        // Numbers begin with the largest, texts with A; another press reverses the order.
        down = sorted === column ? !down : Boolean(column.number && column.down !== false);
        sorted = column;
        heads.forEach((head) => head.removeAttribute("aria-sort"));
        event.currentTarget.parentNode.setAttribute("aria-sort", down ? "descending" : "ascending");
        draw();
      } }, column.title)));
    draw();
    const node = el("div", {}, el("div", { class: tall ? "scroll tall" : "scroll", tabindex: "0", role: "region", "aria-label": caption },
      el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, heads)), body)), more);
    node.show = (some) => { kept = some; draw(); };
    return node;
  }

  let nControls = 0;
  function labelled(label, control) {
    control.id = `control-${nControls += 1}`;
    return el("label", { for: control.id }, label, control);
  }
  // A choice of options [{label, value, group}]; calls `chosen` with the position of the option.
  function choice(label, options, chosen, start = 0) {
    const select = el("select", { onchange: () => chosen(Number(select.value)) });
    const numbered = options.map((option, at) => ({ ...option, at }));
    for (const [group, members] of groups(numbered, (option) => option.group || "")) {
      const nodes = members.map((option) => el("option", { value: option.at }, option.label));
      select.append(...(group ? [el("optgroup", { label: group }, nodes)] : nodes));
    }
    select.value = String(start);
    return labelled(label, select);
  }
  // A choice above what `view` makes of its option; a single option is named instead.
  function picker(options, view, start = 0) {
    const host = el("div");
    const show = (at) => host.replaceChildren(...view(options[at]));
    if (!options.length) return [];
    show(start);
    const single = el("p", {}, options[0].label);
    return [options.length > 1 ? el("div", { class: "controls" }, choice("Task, metric, condition", options, show, start)) : single, host];
  }
  const questionsOf = (rows) => [...groups(rows, (row) => row.question)].map(([label, members]) => ({ label, members, group: members[0].task }));
  // A box that calls `changed` with a test of whether a text has all its words.
  function searchBox(label, changed) {
    const box = el("input", { type: "search", autocomplete: "off", oninput: () => {
      const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      changed((searched) => words.every((word) => searched.includes(word)));
    } });
    return labelled(label, box);
  }

  // Where a chart's values and positions stand, and its grid. ticks: texts of the positions.
  function axes(values, ticks, question, xTitle, width) {
    const height = Math.min(420, Math.max(240, width * 0.5));
    const edge = { left: 46, right: width - 14, top: 22, bottom: height - 44 };
    const [least, most] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
    const span = Math.max(most - least, { 1: 5, 2: 0.1, 3: 0.05 }[question.digits] || 1e-9);
    const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200].find((size) => span / size <= 6) || 500;
    const bottom = Math.floor(least / step) * step;
    const top = Math.max(Math.ceil(most / step) * step, bottom + step);
    const inner = edge.right - edge.left;
    const last = ticks.length - 1;
    const x = (at) => edge.left + (last ? inner * at / last : inner / 2);
    const y = (value) => edge.bottom - (edge.bottom - edge.top) * (value - bottom) / (top - bottom);
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", "aria-hidden": "true" });
    for (let value = bottom; value <= top + step / 2; value += step) {
      root.append(svg("line", { class: "axis", x1: edge.left, x2: edge.right, y1: y(value), y2: y(value) }),
        svg("text", { x: edge.left - 6, y: y(value) + 4, "text-anchor": "end" }, String(Number(value.toFixed(2)))));
    }
    const cut = ticks.map((tick) => (tick.length > 16 ? `${tick.slice(0, 15)}…` : tick));
    const every = Math.ceil(ticks.length * (7 * Math.max(...cut.map((tick) => tick.length)) + 10) / Math.max(inner, 1));
    cut.forEach((tick, at) => {
      if (at !== last && (at % every || at > last - every && last % every)) return;
      const side = !last || tick.length <= 4 ? "middle" : at === 0 ? "start" : at === last ? "end" : "middle";
      root.append(svg("text", { x: x(at), y: edge.bottom + 18, "text-anchor": side }, tick));
    });
    root.append(svg("text", { x: edge.left, y: 14 }, `${joined([question.metric, question.unit], ", ")} (${way(question)})`),
      svg("text", { x: edge.right, y: height - 6, "text-anchor": "end" }, xTitle));
    return { root, x, y, edge };
  }

  // Curves over positions. series: [{name, level, points: [{at, value, low, high, ring, apart, note}]}].
  function chart(title, series, ticks, question, xTitle) {
    const readout = el("output", { class: "readout", "aria-live": "polite" }, "Point at a curve to read its values.");
    const box = el("div", { class: "chart", tabindex: "0", role: "group",
      "aria-label": `${title}. Left and right arrow keys change the position, up and down the model; the table below holds all values.` });
    const looks = new Map(series.map((one, at) => [one, `c${at % COLOURS} dash${Math.floor(at / COLOURS) % 3}`]));
    const hidden = new Set();
    const points = (one) => one.points.filter((point) => point.value != null);
    const visible = () => series.filter((one) => !hidden.has(one) && points(one).length);
    let [width, lit, frame] = [0, null, null];

    function drawOne(one) {
      const [{ root, x, y, edge }, look, own] = [frame, looks.get(one), points(one)];
      const line = own.filter((point) => !point.apart);
      const ends = line.filter((point) => point.low != null && point.high != null);
      const corners = (some, name) => some.map((point) => `${x(point.at)},${y(point[name])}`);
      if ((visible().length <= 6 || lit?.one === one) && ends.length > 1) {
        root.append(svg("polygon", { class: `band ${look}`, points: [...corners(ends, "high"), ...corners(ends, "low").reverse()].join(" ") }));
      }
      const level = [edge.left, edge.right].map((across) => `${across},${y(own[0].value)}`);
      root.append(svg("polyline", { class: joined(["curve", look, one.level && "level", lit?.one === one && "lit"], " "),
        points: (one.level ? level : corners(line, "value")).join(" ") }));
      for (const point of own) {
        const ring = point.ring && !one.level;
        const place = { cx: one.level ? edge.left : x(point.at), cy: y(point.value) };
        if (point.likely) root.append(svg("circle", { class: `likely ${look}`, ...place, r: 9 }));
        if (ring || own.length < 40) root.append(svg("circle", { class: `${ring ? "ring" : "dot"} ${look}`, ...place, r: ring ? 6 : 2.5 }));
      }
    }
    function draw() {
      const values = visible().flatMap(points).flatMap((point) => [point.value, point.low ?? point.value, point.high ?? point.value]);
      frame = axes(values, ticks, question, xTitle, width);
      visible().forEach(drawOne);
      if (lit) {
        const across = lit.one.level ? lit.across ?? frame.edge.left : frame.x(lit.point.at);
        frame.root.append(svg("line", { class: "cursor", x1: across, x2: across, y1: frame.edge.top, y2: frame.edge.bottom }),
          svg("circle", { class: `ring ${looks.get(lit.one)}`, cx: across, cy: frame.y(lit.point.value), r: 7 }));
      }
      box.replaceChildren(frame.root);
    }
    function light(one, point, across) {
      lit = { one, point, across };
      const value = joined([number(point.value, question.digits), question.unit], " ");
      const where = one.level ? "" : `, ${xTitle} ${ticks[point.at]}`;
      const said = joined([value, interval({ ...point, digits: question.digits })], " ");
      readout.replaceChildren(el("strong", {}, one.name), `${where}: ${joined([said, point.note], "; ")}`);
      draw();
    }
    box.addEventListener("pointermove", (event) => {
      const bounds = box.getBoundingClientRect();
      const across = event.clientX - bounds.left;
      const far = ({ one, point }) => (one.level ? 0 : 3 * Math.abs(frame.x(point.at) - across))
        + Math.abs(frame.y(point.value) - event.clientY + bounds.top);
      const [nearest] = visible().flatMap((one) => points(one).map((point) => ({ one, point }))).sort((a, b) => far(a) - far(b));
      if (nearest && nearest.point !== lit?.point) light(nearest.one, nearest.point, across);
    });
    box.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      const all = visible();
      if (!move || !all.length) return;
      event.preventDefault();
      if (!lit) return light(all[0], points(all[0]).find((point) => point.ring) || points(all[0])[0]);
      const one = all[(all.indexOf(lit.one) + move[0] + all.length) % all.length];
      const [own, target] = [points(one), lit.point.at + move[1]];
      const ahead = own.filter((point) => (point.at - lit.point.at) * move[1] > 0);
      const [near] = (move[0] ? own : ahead.length ? ahead : [lit.point]).toSorted((a, b) => Math.abs(a.at - target) - Math.abs(b.at - target));
      light(one, near);
    });
    new ResizeObserver(([entry]) => {
      const now = Math.floor(entry.contentRect.width);
      if (now && now !== width) { width = now; draw(); }
    }).observe(box);
    const boxes = series.map((one) => {
      const check = el("input", { type: "checkbox", checked: true, onchange: () => {
        check.checked ? hidden.delete(one) : hidden.add(one);
        if (hidden.has(lit?.one)) { lit = null; readout.textContent = ""; }
        draw();
      } });
      return el("label", {}, check, svg("svg", { class: "swatch", width: 26, height: 10, "aria-hidden": "true" },
        svg("line", { class: joined(["curve", looks.get(one), one.level && "level"], " "), x2: 26, y1: 5, y2: 5 })), one.name);
    });
    return el("figure", {}, el("fieldset", {}, el("legend", {}, "Models shown"), boxes), readout, box);
  }

  const answers = () => [
    data.headline.length ? el("p", { class: "headline" }, data.headline[0]) : "",
    data.headline.length > 1 ? el("ul", {}, data.headline.slice(1).map((line) => el("li", {}, line))) : "",
    el("div", { class: "answers" }, data.answers.map((answer) => {
      const { title, about, score: [score, ends], lead: [where, who, what], more, elsewhere, caution, protocol, deviations } = answer;
      return el("article", {}, el("h3", {}, title),
        score ? el("p", { class: "score" }, el("strong", {}, score), ends ? el("span", {}, ` ${ends}`) : "") : "",
        el("p", { class: "lead" }, where ? `${where[0].toUpperCase()}${where.slice(1)}: ` : "", el("strong", {}, who), ` ${what}`),
        caution ? el("p", { class: "caution" }, caution) : "",
        more.length ? el("p", {}, more.join(" ")) : "",
        elsewhere.length ? el("details", {}, el("summary", {}, "Other conditions and domains"), el("ul", {}, elsewhere.map((place) =>
          el("li", {}, el("span", { class: "about" }, `${place.where}: `), el("strong", {}, place.who), ` ${place.what}`)))) : "",
        deviations.length ? el("details", {}, el("summary", {}, `How this differs from ${protocol}`),
          el("ol", {}, deviations.map((sentence) => el("li", {}, sentence)))) : "",
        el("p", { class: "about" }, about));
    })),
  ];

  function scores() {
    const rows = rowsOf(data.scores).map((row) => ({ ...data.questions[row.q], ...row }));
    const marks = (row) => joined([row.mark, row.chance ? "near chance" : "", row.shared ? "‡" : ""], ", ");
    const columns = [
      MODEL, text("task", "task"), { ...LAYER, key: (row) => row.layer, cell: (row) => el("span", {}, row.layer || "–", below(row.choice)) },
      amount("score", "value", { cell: (row) => el("span", {}, scoreNode(row), row.unit === "bits" ? " bits" : "", below(interval(row))) }),
      { title: "marks", cell: (row) => marks(row) || "–" },
      { title: "condition", cell: (row) => row.setting || "clean", optional: true, words: true },
      { title: "metric", cell: (row) => `${row.metric} ${row.higher ? "↑" : "↓"}` },
      amount("last layer", "last", { optional: true, cell: (row) => (row.last == null ? "–" : `${number(row.last, row.digits)} (${row.last_layer})`) }),
      ...["final", "weighted", "majority", "mean", "shuffled", "fbank", "random"].map((name) => amount(name, name, { optional: true })),
      text("head", "head", { optional: true }), text("corpus", "corpus", { optional: true }),
      count("n", "n"), count("blocks", "blocks"), text("note", "note", { optional: true, words: true }),
    ];
    const node = table(`Scores${rows.some((row) => !["%", "bits"].includes(row.unit)) ? "" : " in percent"} at the chosen layers`, columns, rows, true);
    const status = el("p", { class: "note", role: "status" });
    const tasks = ["", ...data.tasks];
    const metrics = [{ label: "the metric that chooses layers" }, { label: "all metrics" }];
    let [task, everyMetric, matches] = ["", 0, () => true];
    function update() {
      const kept = rows.filter((row) => (row.main || everyMetric) && (!task || row.task === task)
        && matches(lower([row.task, row.corpus, row.setting || "clean", row.metric, row.model, row.head, marks(row)])));
      node.show(kept);
      status.textContent = `${kept.length} of ${rows.length} scores`;
    }
    update();
    return [el("div", { class: "controls" },
      searchBox("Filter (model, condition, best …)", (test) => { matches = test; update(); }),
      choice("Task", tasks.map((name) => ({ label: name || "all tasks" })), (at) => { task = tasks[at]; update(); }),
      rows.every((row) => row.main) ? "" : choice("Metrics", metrics, (at) => { everyMetric = at; update(); })), status, node];
  }

  const rank = (layer) => (layer === "conv" ? -1 : /^\d+$/.test(layer) ? Number(layer) : layer === "final" ? 1e6 : 1e7);
  function layers() {
    const options = [...groups(data.curves, (curve) => curve.q)].sort(([a], [b]) => a - b)
      .map(([q, curves]) => ({ label: data.questions[q].label, group: data.questions[q].task, question: data.questions[q], curves }));
    const start = options.findIndex(({ curves }) => curves.some((curve) => curve.layers.length > 2));
    return picker(options, ({ question, curves }) => {
      const ticks = distinct(curves.flatMap((curve) => curve.layers)).sort((a, b) => rank(a) - rank(b));
      const heads = distinct(curves.map((curve) => curve.head)).length > 1;
      const series = curves.map(({ model, head, layers: names, chosen, shares = [], likely = [], ...values }) => ({
        name: heads ? `${model} (${head})` : model,
        level: names.length === 1,
        points: names.map((layer, at) => ({ at: ticks.indexOf(layer), layer, ring: chosen === at, likely: likely.includes(at), share: shares[at], apart: rank(layer) === 1e7, digits: question.digits,
          value: values.value[at], low: values.low[at], high: values.high[at], dev: values.dev[at],
          note: joined([values.dev[at] == null ? "" : `on development data ${number(values.dev[at], question.digits)}`,
            chosen === at ? "the chosen layer" : "", shares[at] == null ? "" : `${number(shares[at])} % of resamples choose it`], "; ") })),
      }));
      const columns = [MODEL, { ...LAYER, key: (row) => row.at }, amount("score", "value"), { ...amount("95 % interval", "low"), cell: interval },
        amount("development", "dev"), { title: "chosen", cell: (row) => (row.ring ? "✓" : "") },
        amount("chosen in % of resamples", "share", { optional: true, cell: (row) => number(row.share) })];
      const rows = series.flatMap((one) => one.points.map((point) => ({ model: one.name, ...point })));
      const title = `Layer curves: ${question.label}`;
      return [chart(title, series, ticks, question, "layer"),
        el("details", {}, el("summary", {}, "These curves as a table"), table(title, columns, rows, true))];
    }, Math.max(start, 0));
  }

  // A row per group with the cells of its members by the name in `across`.
  const spread = (rows, key, across) => [...groups(rows, key).values()].map((cells) =>
    ({ ...cells[0], cells: new Map(cells.map((cell) => [cell[across], cell])) }));
  const cellColumns = (names, title, content) => names.map((name) => ({ title: title(name), number: true,
    key: (row) => row.cells.get(name)?.value, cell: (row) => (row.cells.has(name) ? content(row.cells.get(name)) : "–") }));
  // In points on the metric's scale: a loss has the sign with which the score moved.
  function lost(cell) {
    if (cell?.loss == null) return "";
    const sign = cell.higher ? -1 : 1;
    const ends = [cell.loss_low, cell.loss_high].filter((end) => end != null).map((end) => sign * end).sort((a, b) => a - b);
    return joined([signed(sign * cell.loss, cell.digits), ends.length > 1 ? `[${ends.map((end) => signed(end, cell.digits)).join(", ")}]` : ""], " ");
  }
  const conditions = () => picker(questionsOf(rowsOf(data.conditions)), ({ label, members }) => {
    const names = distinct(members.map((row) => row.condition));
    const ticks = names.filter((name) => name !== "(mean)");
    const rows = spread(members, (row) => row.model, "condition");
    const series = rows.map((row) => ({ name: `${row.model}, layer ${row.layer}`, points: ticks.map((name, at) =>
      ({ at, value: null, ...row.cells.get(name), note: lost(row.cells.get(name)) })) }));
    const columns = [MODEL, LAYER, ...cellColumns(names, (name) => (name === "(mean)" ? "mean of conditions" : name),
      (cell) => el("span", {}, number(cell.value, cell.digits), below(lost(cell))))];
    if (rows.some((row) => row.chance)) columns.push({ title: "clean score", cell: (row) => row.chance || "above chance" });
    const title = `${joined([label, members[0].unit], ", ")} (${way(members[0])})`;
    return [table(title, columns, rows), chart(`Scores under conditions: ${title}`, series, ticks, members[0], "under")];
  });
  const domains = () => picker(questionsOf(rowsOf(data.domains)), ({ label, members }) => {
    const rows = spread(members, (row) => JSON.stringify([row.model, row.train_domain]), "test_domain");
    rows.forEach((row) => { row.layer = [...row.cells.values()].find((cell) => cell.layer)?.layer; });
    const columns = [MODEL, text("trained on", "train_domain"), LAYER, ...cellColumns(distinct(members.map((row) => row.test_domain)),
      (name) => `tested on ${name}`, (cell) => el("span", {}, number(cell.value, cell.digits), el("small", {}, ` ${interval(cell)}`), below(cell.note)))];
    return [table(`${joined([label, members[0].unit], ", ")} (${way(members[0])})`, columns, rows)];
  });
  const confusions = () => picker(questionsOf(data.confusions), ({ label, members }) => members.map(({ model, layer, classes, counts }) => {
    const rows = counts.map((cells, at) => ({ name: classes[at], cells, total: cells.reduce((sum, n) => sum + n, 0), at }));
    const columns = [text("true \\ predicted", "name", { head: true }), ...classes.map((name, at) => ({ title: name, number: true,
      key: (row) => row.cells[at], cell: (row) => el("span", { class: `share share${Math.ceil(row.total ? 5 * row.cells[at] / row.total : 0)}` }, String(row.cells[at])) })),
      { title: "recall %", number: true, key: (row) => row.cells[row.at] / row.total, cell: (row) => (row.total ? number(100 * row.cells[row.at] / row.total) : "–") }];
    return table(`${model}, layer ${layer}: ${label}`, columns, rows);
  }));
  const errors = () => picker(questionsOf(rowsOf(data.errors)), ({ label, members }) => {
    const node = table(`Worst of ${label}`, [
      text("utterance", "key", { head: true }), { ...MODEL, head: false, optional: true }, text("seed", "seed", { optional: true }),
      text("reference", "reference", { words: true }), text("output", "hypothesis", { words: true }), amount("wrong %", "wrong"),
      amount("models wrong", "models_wrong", { cell: (row) => `${row.models_wrong} of ${row.models}` }),
      text("speaker", "speaker", { optional: true }), amount("seconds", "duration_s", { optional: true, cell: (row) => number(row.duration_s, true) }),
    ], members, true);
    return [el("div", { class: "controls" }, searchBox("Filter (speaker, model, words …)", (matches) => node.show(members.filter((row) =>
      matches(lower([row.key, row.model, row.reference, row.hypothesis, row.speaker])))))), node];
  });

  const words = (title, name) => text(title, name, { words: true });
  const statements = () => (data.statements.claim ? [table("Published statements", [{ ...words("statement", "claim"), head: true },
    text("model", "model"), words("curve", "of"), text("verdict", "verdict"), words("numbers", "why"), words("source", "source")],
    rowsOf(data.statements))] : []);
  const corpora = () => [table("What was scored", [text("corpus", "corpus", { head: true }), text("task", "task"), text("split", "split"),
    count("scored", "n"), count("blocks", "blocks"), count("trained on", "n_train"), words("conditions", "conditions"),
    words("left out", "left_out"), text("manifest", "manifest")], rowsOf(data.corpora))];
  const recipes = () => [
    table("Features", [MODEL, words("revision", "revision"), text("corpus", "corpus"), words("condition", "condition"),
      words("trained on", "train_condition"), words("tasks", "task"), text("recipe", "recipe")], rowsOf(data.recipes), true),
    table("Code, libraries, device, seed", [text("version and commit", "code", { head: true }), text("device", "device"), text("seed", "seed"),
      count("records", "records"), words("packages", "packages")], rowsOf(data.code))];
  const repeat = () => [el("pre", { tabindex: "0", "aria-label": "Commands" }, data.commands.join("\n\n"))];

  const named = (names, one) => `${names.length} ${one}${names.length === 1 ? "" : "s"} (${names.join(", ")})`;
  document.title = byId("title").textContent = data.title;
  byId("subject").textContent = `This page compares ${named(data.models, "model")} on ${named(data.tasks, "task")}`
    + `${data.n_conditions > 1 ? ` under ${data.n_conditions} conditions` : ""}. ${data.baselines}`;
  byId("made").textContent = `Made by layerprobe ${data.version} from ${data.n_records} records. This file needs no network.`;
  byId("answers").append(...answers().filter(Boolean));
  const notes = { conditions: [data.sampling], errors: data.errors_left_out };
  for (const [id, build] of Object.entries({ scores, layers, statements, conditions, domains, confusions, errors, data: corpora, recipes, repeat })) {
    const nodes = [...build()];
    if (id === "errors" || nodes.length) nodes.unshift(...(notes[id] || []).filter(Boolean).map((line) => el("p", { class: "note" }, line)));
    nodes.length ? byId(id).querySelector(".host").replaceChildren(...nodes) : byId(id).remove();
  }
  byId("contents").append(...[...document.querySelectorAll("main > section")].map((section) =>
    el("li", {}, el("a", { href: `#${section.id}` }, section.querySelector("h2").textContent))));
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((node) => { node.open = true; });
    document.querySelectorAll(".more:not([hidden])").forEach((node) => node.click());
  });
})();
