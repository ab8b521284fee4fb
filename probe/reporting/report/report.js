"use strict";
// Draws the page from the JSON block. Every text from data goes through textContent or an attribute's value; keys of data live in Maps.
(() => {
  const data = JSON.parse(document.getElementById("payload").textContent);
  const SHOWN_AT_FIRST = 100;
  const COLOURS = 8;
  const collator = new Intl.Collator("en", { numeric: true });
  let made = 0;

  const byId = (id) => document.getElementById(id);
  const rowsOf = (columns) => {
    const names = Object.keys(columns);
    return names.length ? columns[names[0]].map((_, at) => Object.fromEntries(names.map((name) => [name, columns[name][at]]))) : [];
  };
  const distinct = (values) => [...new Set(values)];
  const groups = (rows, key) => {
    const found = new Map();
    for (const row of rows) {
      const name = key(row);
      found.has(name) ? found.get(name).push(row) : found.set(name, [row]);
    }
    return found;
  };

  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value != null) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== ""));
    return node;
  }
  const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
  const svg = (name, attributes = {}, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

  const number = (value, bits) => (value == null ? "–" : value.toFixed(bits ? 2 : 1));
  const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(1);
  const interval = (row, bits) => (row.low == null || row.high == null ? "" : ` [${number(row.low, bits)}, ${number(row.high, bits)}]`);
  const unit = (question) => (question.bits ? "bits" : "%");
  const arrow = (question) => (question.higher ? "↑" : "↓");
  const way = (question) => (question.higher ? "higher is better" : "lower is better");

  const heard = (row) => [row.condition && row.condition !== "clean" ? row.condition : "", row.train_condition && row.train_condition !== "clean"
    ? `trained on ${row.train_condition}` : "", row.train_domain ? `${row.train_domain} → ${row.test_domain}` : ""].filter(Boolean).join(", ");
  const severalCorpora = new Set(data.questions.map((question) => question.corpus)).size > 1;
  const asked = (row) => [row.task, severalCorpora ? row.corpus : "", row.metric || "", heard(row)].filter(Boolean).join(" · ");

  // A table with a caption, sortable by the buttons in its head; long ones show their first rows and a button for the rest.
  // column: {title, cell(row) -> text or node, key(row) -> what to sort by, number, head, words}
  function table(caption, columns, rows, { sortable = true, tall = false } = {}) {
    const body = el("tbody");
    const more = el("button", { type: "button", class: "more", onclick: () => { limit = Infinity; draw(); } });
    let limit = SHOWN_AT_FIRST;
    let shown = rows;
    let order = null;
    const draw = () => {
      let sorted = shown;
      if (order) {
        const key = order.column.key || order.column.cell;
        const sign = order.down ? -1 : 1;
        const missing = (value) => value == null || value === "" || value === "–";
        sorted = [...shown].sort((one, other) => {
          const [a, b] = [key(one), key(other)];
          if (missing(a) || missing(b)) return missing(a) - missing(b);
          return sign * (typeof a === "number" && typeof b === "number" ? a - b : collator.compare(a, b));
        });
      }
      body.replaceChildren(...sorted.slice(0, limit).map((row) => el("tr", {}, ...columns.map((column) =>
        el(column.head ? "th" : "td", { scope: column.head ? "row" : null, class: column.number ? "number" : column.words ? "words" : null },
          column.cell(row) ?? "–")))));
      more.hidden = sorted.length <= limit;
      more.textContent = `Show all ${sorted.length} rows`;
    };
    const heads = columns.map((column) => {
      const head = el("th", { scope: "col", class: column.number ? "number" : null });
      head.append(sortable ? el("button", { type: "button", onclick: () => {
        // Scores begin with the largest, texts with A; once more turns around.
        const down = order && order.column === column ? !order.down : Boolean(column.number && column.down !== false);
        order = { column, down };
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        draw();
      } }, column.title) : column.title);
      return head;
    });
    draw();
    const node = el("div", {}, el("div", { class: tall ? "scroll tall" : "scroll", tabindex: "0", role: "region", "aria-label": caption },
      el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, ...heads)), body)), more);
    node.show = (kept) => { shown = kept; draw(); };
    return node;
  }

  // Names that all rows share say nothing in a column.
  const informative = (columns, rows) => columns.filter((column) => !column.optional || distinct(rows.map((row) => column.cell(row))).length > 1);
  const text = (title, name, more = {}) => ({ title, cell: (row) => row[name] || "–", ...more });

  function labelled(label, control) {
    control.id = `control-${made += 1}`;
    return el("label", { for: control.id }, label, control);
  }
  // A choice of options [{value, label, group}]; calls back with the value.
  function choice(label, options, chosen, start = options[0].value) {
    const select = el("select", { onchange: () => chosen(select.value) });
    for (const [group, members] of groups(options, (option) => option.group || "")) {
      const nodes = members.map((option) => el("option", { value: String(option.value) }, option.label));
      select.append(...(group ? [el("optgroup", { label: group }, ...nodes)] : nodes));
    }
    select.value = String(start);
    return labelled(label, select);
  }

  // Curves over positions. series: [{name, points: [{at, value, low, high, ring, note}], level}]; ticks: texts of the positions.
  function chart(title, series, ticks, question, xTitle) {
    const hidden = new Set();
    const readout = el("output", { class: "readout", "aria-live": "polite" }, "Point at a curve to read its values.");
    const box = el("div", { class: "chart", tabindex: "0", role: "group",
      "aria-label": `${title}. Left and right arrow keys change the position, up and down the model; the table below holds all values.` });
    let width = 0;
    let lit = null;
    let place = null;
    const looks = new Map(series.map((one, at) => [one, `c${at % COLOURS} dash${Math.floor(at / COLOURS) % 3}`]));
    const visible = () => series.filter((one) => !hidden.has(one));
    const points = (one) => one.points.filter((point) => point.value != null);

    function draw() {
      const height = Math.min(420, Math.max(240, width * 0.5));
      const edge = { left: 46, right: 14, top: 22, bottom: 44 };
      const all = visible().flatMap(points).flatMap((point) => [point.value, point.low ?? point.value, point.high ?? point.value]);
      const [least, most] = all.length ? [Math.min(...all), Math.max(...all)] : [0, 1];
      const span = Math.max(most - least, question.bits ? 0.1 : 5);
      const step = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200].find((size) => span / size <= 6) || 500;
      const bottom = Math.floor(least / step) * step;
      const top = Math.max(Math.ceil(most / step) * step, bottom + step);
      const inner = width - edge.left - edge.right;
      const x = (at) => edge.left + (ticks.length > 1 ? inner * at / (ticks.length - 1) : inner / 2);
      const y = (value) => height - edge.bottom - (height - edge.top - edge.bottom) * (value - bottom) / (top - bottom);
      place = { x, y, left: edge.left, right: width - edge.right };
      const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", "aria-hidden": "true" });
      for (let value = bottom; value <= top + step / 2; value += step) {
        root.append(svg("line", { class: "axis", x1: edge.left, x2: width - edge.right, y1: y(value), y2: y(value) }),
          svg("text", { x: edge.left - 6, y: y(value) + 4, "text-anchor": "end" }, String(Number(value.toFixed(2)))));
      }
      const widest = Math.max(...ticks.map((tick) => Math.min(tick.length, 16))) * 7 + 10;
      const every = Math.ceil(ticks.length * widest / Math.max(inner, 1));
      ticks.forEach((tick, at) => {
        const last = ticks.length - 1;
        if (at % every && at !== last || at !== last && at > last - every && last % every) return;
        const anchor = ticks.length > 1 && tick.length > 4 ? (at === 0 ? "start" : at === last ? "end" : "middle") : "middle";
        root.append(svg("text", { x: x(at), y: height - edge.bottom + 18, "text-anchor": anchor }, tick.length > 16 ? `${tick.slice(0, 15)}…` : tick));
      });
      root.append(svg("text", { x: edge.left, y: 14 }, `${question.metric}, ${unit(question)} (${way(question)})`),
        svg("text", { x: width - edge.right, y: height - 6, "text-anchor": "end" }, xTitle));
      const few = visible().length <= 6;
      for (const one of visible()) {
        const look = looks.get(one);
        const there = points(one);
        if (!there.length) continue;
        const isLit = lit && lit.one === one;
        const ends = there.filter((point) => !point.apart && point.low != null && point.high != null);
        const joined = there.filter((point) => !point.apart);
        const positions = one.level ? [[place.left, there[0]], [place.right, there[0]]] : joined.map((point) => [x(point.at), point]);
        if ((few || isLit) && ends.length > 1) {
          const outline = [...ends.map((point) => `${x(point.at)},${y(point.high)}`), ...ends.toReversed().map((point) => `${x(point.at)},${y(point.low)}`)];
          root.append(svg("polygon", { class: `band ${look}`, points: outline.join(" ") }));
        }
        root.append(svg("polyline", { class: `curve ${look}${one.level ? " level" : ""}${isLit ? " lit" : ""}`,
          points: positions.map(([across, point]) => `${across},${y(point.value)}`).join(" ") }));
        for (const point of there) {
          const at = one.level ? place.left : x(point.at);
          if (point.ring && !one.level) root.append(svg("circle", { class: `ring ${look}`, cx: at, cy: y(point.value), r: 6 }));
          else if (there.length < 40) root.append(svg("circle", { class: `dot ${look}`, cx: at, cy: y(point.value), r: 2.5 }));
        }
      }
      if (lit && !hidden.has(lit.one)) {
        const across = lit.one.level ? lit.across ?? place.left : x(lit.point.at);
        root.append(svg("line", { class: "cursor", x1: across, x2: across, y1: edge.top, y2: height - edge.bottom }),
          svg("circle", { class: `ring ${looks.get(lit.one)}`, cx: across, cy: y(lit.point.value), r: 7 }));
      }
      box.replaceChildren(root);
    }
    function light(one, point, across) {
      lit = { one, point, across };
      const where = one.level ? "" : `, ${xTitle} ${ticks[point.at]}`;
      readout.replaceChildren(el("strong", {}, one.name), `${where}: ${number(point.value, question.bits)} ${unit(question)}${interval(point, question.bits)}`
        + (point.note ? `; ${point.note}` : ""));
      draw();
    }
    box.addEventListener("pointermove", (event) => {
      const bounds = box.getBoundingClientRect();
      const [across, down] = [event.clientX - bounds.left, event.clientY - bounds.top];
      let nearest = null;
      for (const one of visible()) {
        for (const point of points(one)) {
          const aside = one.level ? 0 : Math.abs(place.x(point.at) - across);
          const far = 3 * aside + Math.abs(place.y(point.value) - down);
          if (!nearest || far < nearest.far) nearest = { far, one, point };
        }
      }
      if (nearest && (!lit || nearest.one !== lit.one || nearest.point !== lit.point)) light(nearest.one, nearest.point, across);
    });
    box.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      const there = visible().filter((one) => points(one).length);
      if (!move || !there.length) return;
      event.preventDefault();
      if (!lit || !there.includes(lit.one)) return light(there[0], points(there[0]).find((point) => point.ring) || points(there[0])[0]);
      const one = there[(there.indexOf(lit.one) + move[0] + there.length) % there.length];
      const own = points(one);
      const near = own.reduce((best, point) => (Math.abs(point.at - lit.point.at) < Math.abs(best.at - lit.point.at) ? point : best));
      light(one, move[0] ? near : own[Math.min(own.length - 1, Math.max(0, own.indexOf(lit.point) + move[1]))]);
    });
    new ResizeObserver(([entry]) => {
      const now = Math.floor(entry.contentRect.width);
      if (now && now !== width) { width = now; draw(); }
    }).observe(box);

    const boxes = series.map((one) => {
      const check = el("input", { type: "checkbox", checked: true, onchange: () => {
        check.checked ? hidden.delete(one) : hidden.add(one);
        if (lit && hidden.has(lit.one)) { lit = null; readout.textContent = ""; }
        draw();
      } });
      const swatch = svg("svg", { class: "swatch", width: 26, height: 10, "aria-hidden": "true" },
        svg("line", { class: `curve ${looks.get(one)}${one.level ? " level" : ""}`, x1: 0, x2: 26, y1: 5, y2: 5 }));
      return el("label", {}, check, swatch, one.name);
    });
    const all = (on) => boxes.forEach((label) => { const check = label.querySelector("input"); if (check.checked !== on) check.click(); });
    const both = series.length > 3 ? [el("button", { type: "button", onclick: () => all(true) }, "all"), el("button", { type: "button", onclick: () => all(false) }, "none")] : [];
    return el("figure", {}, el("fieldset", {}, el("legend", {}, "Models shown"), ...boxes, ...both), readout, box);
  }
  const asTable = (summary, node) => el("details", {}, el("summary", {}, summary), node);

  const mark = (row) => [row.mark === "best" ? "best" : row.mark === "tied" ? "tied" : "", row.chance ? "near chance" : "",
    row.shared ? "‡" : ""].filter(Boolean).join(", ");
  const score = (row, bits) => el("span", { class: [row.mark, row.chance ? "chance" : ""].filter(Boolean).join(" ") || null }, number(row.value, bits));
  const scoreColumns = (bits) => [
    { title: "score", number: true, cell: (row) => score(row, bits), key: (row) => row.value },
    { title: "95 % interval", number: true, cell: (row) => interval(row, bits).trim(), key: (row) => row.low },
  ];

  const answers = () => [
    data.headline ? el("p", { class: "headline" }, data.headline) : "",
    el("div", { class: "answers" }, ...data.answers.map((answer) => {
      const [where, who, what] = answer.lead;
      return el("article", {}, el("h3", {}, answer.title), el("p", { class: "about" }, answer.about),
        el("p", { class: "lead" }, where ? `${where}: ` : "", el("strong", {}, who), ` ${what}`),
        answer.elsewhere.length ? el("ul", {}, ...answer.elsewhere.map((there) =>
          el("li", {}, el("span", { class: "about" }, `${there.where}: `), el("strong", {}, there.who), ` ${there.what}`))) : "",
        answer.caution ? el("p", { class: "caution" }, answer.caution) : "");
    })),
  ].filter(Boolean);

  function scores() {
    const rows = rowsOf(data.scores).map((row) => ({ ...data.questions[row.q], ...row }));
    const plain = (name) => ({ title: name, number: true, cell: (row) => number(row[name], row.bits), key: (row) => row[name], optional: true });
    const columns = informative([
      text("model", "model", { head: true }), text("task", "task"), { title: "layer", number: true, down: false, cell: (row) => row.layer || "–" },
      { title: "score", number: true, key: (row) => row.value, cell: (row) => el("span", {}, score(row, row.bits), row.bits ? " bits" : "",
        el("small", { class: "below" }, interval(row, row.bits).trim())) },
      { title: "marks", cell: (row) => mark(row) || "–" }, { title: "heard", cell: (row) => heard(row) || "clean", optional: true, words: true },
      { title: "metric", cell: (row) => `${row.metric} ${arrow(row)}` }, { title: "last layer", number: true, optional: true, key: (row) => row.last,
        cell: (row) => (row.last == null ? "–" : `${number(row.last, row.bits)} (${row.last_layer})`) },
      ...["final", "weighted", "majority", "shuffled", "fbank", "random"].map(plain), text("head", "head", { optional: true }), text("corpus", "corpus", { optional: true }),
      count("n", "n"), count("blocks", "blocks"), text("note", "note", { optional: true, words: true }),
    ], rows);
    const main = rows.filter((row) => row.main);
    const node = table("Scores in percent at the chosen layers", columns, main, { tall: true });
    const wanted = { words: [], task: "", main: true };
    const status = el("p", { class: "note", role: "status" });
    const keep = () => {
      const kept = rows.filter((row) => (row.main || !wanted.main) && (!wanted.task || row.task === wanted.task) && wanted.words.every((word) =>
        [row.task, row.corpus, heard(row) || "clean", row.metric, row.model, row.head, mark(row)].join(" ").toLowerCase().includes(word)));
      node.show(kept);
      status.textContent = `${kept.length} of ${rows.length} scores`;
    };
    const search = el("input", { type: "search", autocomplete: "off", oninput: () => { wanted.words = search.value.toLowerCase().split(/\s+/).filter(Boolean); keep(); } });
    const tasks = distinct(rows.map((row) => row.task));
    const controls = el("div", { class: "controls" }, labelled("Filter (model, condition, best …)", search),
      choice("Task", [{ value: "", label: "all tasks" }, ...tasks.map((task) => ({ value: task, label: task }))], (task) => { wanted.task = task; keep(); }));
    if (main.length < rows.length) {
      controls.append(choice("Metrics", [{ value: "main", label: "the one that chooses layers" }, { value: "all", label: "all" }],
        (value) => { wanted.main = value === "main"; keep(); }));
    }
    keep();
    return [controls, status, node];
  }

  function picker(label, options, view, start = options[0].value) {
    const host = el("div", {});
    const show = (value) => host.replaceChildren(...view(Number(value)));
    show(start);
    return [options.length > 1 ? el("div", { class: "controls" }, choice(label, options, show, start)) : el("p", {}, options[0].label), host];
  }

  function layers() {
    const of = groups(data.curves, (curve) => curve.q);
    const deep = [...of.keys()].sort((a, b) => a - b);
    if (!deep.length) return [];
    const start = deep.find((q) => of.get(q).some((curve) => curve.layers.length > 2));
    return picker("Task, metric, condition", deep.map((q) => ({ value: q, label: asked(data.questions[q]), group: data.questions[q].task })), (q) => {
      const question = data.questions[q];
      const curves = of.get(q);
      const ticks = distinct(curves.flatMap((curve) => curve.layers)).sort((a, b) => rank(a) - rank(b));
      const at = new Map(ticks.map((tick, position) => [tick, position]));
      const heads = distinct(curves.map((curve) => curve.head)).length > 1;
      const series = curves.map((curve) => ({
        name: heads ? `${curve.model} (${curve.head})` : curve.model,
        level: curve.layers.length === 1,
        points: curve.layers.map((layer, position) => ({ at: at.get(layer), layer, value: curve.value[position], low: curve.low[position], high: curve.high[position],
          dev: curve.dev[position], ring: curve.chosen === position, apart: !/^(conv|final|\d+)$/.test(layer),
          note: [curve.dev[position] == null ? "" : `on development data ${number(curve.dev[position], question.bits)}`,
            curve.chosen === position ? "the chosen layer" : ""].filter(Boolean).join("; ") })),
      }));
      const rows = series.flatMap((one) => one.points.map((point) => ({ model: one.name, ...point })));
      const columns = [text("model", "model", { head: true }), { title: "layer", number: true, down: false, cell: (row) => row.layer, key: (row) => row.at }, ...scoreColumns(question.bits),
        { title: "development", number: true, cell: (row) => number(row.dev, question.bits), key: (row) => row.dev }, { title: "chosen", cell: (row) => (row.ring ? "✓" : "") }];
      const title = `Layer curves: ${asked(question)}`;
      return [chart(title, series, ticks, question, "layer"), asTable("These curves as a table", table(title, columns, rows, { tall: true }))];
    }, start);
  }
  const rank = (layer) => (layer === "conv" ? -1 : /^\d+$/.test(layer) ? Number(layer) : layer === "final" ? 1e6 : 1e7);

  function conditions() {
    const rows = rowsOf(data.conditions);
    const key = (row) => JSON.stringify([row.task, row.corpus, row.train_condition, row.metric, row.head]);
    const questions = [...groups(rows, key).values()];
    if (!questions.length) return [];
    const sampling = data.sampling ? [el("p", { class: "note" }, data.sampling)] : [];
    return [...sampling, ...picker("Task", questions.map((members, at) => ({ value: at, label: asked({ ...members[0], condition: "" }) })), (at) => {
      const members = questions[at];
      const names = distinct(members.map((row) => row.condition));
      const ticks = names.filter((name) => name !== "(mean)");
      const models = [...groups(members, (row) => row.model)].map(([model, cells]) => ({ model, layer: cells[0].layer, chance: cells[0].chance,
        cells: new Map(cells.map((cell) => [cell.condition, cell])) }));
      const question = { ...members[0], bits: false };
      const series = models.map((one) => ({ name: `${one.model}, layer ${one.layer}`, points: ticks.map((name, position) => ({ at: position, ...(one.cells.get(name) || { value: null }),
        note: lost(one.cells.get(name)) })) }));
      const columns = [text("model", "model", { head: true }), { title: "layer", number: true, down: false, cell: (row) => row.layer },
        ...names.map((name) => ({ title: name === "(mean)" ? "mean of conditions" : name, number: true, key: (row) => row.cells.get(name)?.value, cell: (row) => {
          const cell = row.cells.get(name);
          return cell ? el("span", {}, `${number(cell.value)} `, cell.loss == null ? "" : el("small", { class: "below" }, lost(cell))) : "–";
        } }))];
      const shown = models.some((one) => one.chance) ? [...columns, { title: "clean score", cell: (row) => row.chance || "above chance" }] : columns;
      const title = `${asked({ ...members[0], condition: "" })}, % (${way(question)})`;
      return [table(title, shown, models), chart(`Scores under conditions: ${title}`, series, ticks, question, "under")];
    })];
  }
  // Points on the metric's scale: what is lost shows with the sign that the score moved by.
  const lost = (cell) => {
    if (!cell || cell.loss == null) return "";
    const sign = cell.higher ? -1 : 1;
    const ends = [cell.loss_low, cell.loss_high].map((end) => (end == null ? null : sign * end)).sort((a, b) => a - b);
    return `${signed(sign * cell.loss)}${ends[0] == null || ends[1] == null ? "" : ` [${signed(ends[0])}, ${signed(ends[1])}]`}`;
  };

  function domains() {
    const rows = rowsOf(data.domains);
    const key = (row) => JSON.stringify([row.task, row.corpus, row.condition, row.metric, row.head]);
    const questions = [...groups(rows, key).values()];
    if (!questions.length) return [];
    return picker("Task", questions.map((members, at) => ({ value: at, label: asked({ ...members[0], train_domain: "" }) })), (at) => {
      const members = questions[at];
      const tests = distinct(members.map((row) => row.test_domain));
      const lines = [...groups(members, (row) => JSON.stringify([row.model, row.train_domain])).values()].map((cells) => ({ ...cells[0],
        layer: cells.find((cell) => cell.layer)?.layer, cells: new Map(cells.map((cell) => [cell.test_domain, cell])) }));
      const columns = [text("model", "model", { head: true }), text("trained on", "train_domain"), { title: "layer", number: true, down: false, cell: (row) => row.layer || "–" },
        ...tests.map((name) => ({ title: `tested on ${name}`, number: true, key: (row) => row.cells.get(name)?.value, cell: (row) => {
          const cell = row.cells.get(name);
          if (!cell) return "–";
          return el("span", {}, number(cell.value), el("small", {}, interval(cell)), cell.note ? el("small", { class: "below" }, cell.note) : "");
        } }))];
      return [table(`${asked({ ...members[0], train_domain: "" })}, % (${way(members[0])})`, columns, lines)];
    });
  }

  function errors() {
    const rows = rowsOf(data.errors);
    const key = (row) => JSON.stringify([row.task, row.corpus, row.condition, row.train_condition, row.train_domain, row.test_domain, row.head]);
    const questions = [...groups(rows, key).values()];
    const leftOut = data.errors_left_out.map((line) => el("p", { class: "note" }, line));
    if (!questions.length) return leftOut;
    return [...leftOut, ...picker("Task", questions.map((members, at) => ({ value: at, label: asked(members[0]), group: members[0].task })), (at) => {
      const members = questions[at];
      const columns = informative([
        text("utterance", "key", { head: true }), text("model", "model", { optional: true }), text("seed", "seed", { optional: true }), text("reference", "reference", { words: true }), text("said", "hypothesis", { words: true }),
        { title: "wrong %", number: true, cell: (row) => number(row.wrong), key: (row) => row.wrong },
        { title: "models wrong", number: true, cell: (row) => `${row.models_wrong} of ${row.models}`, key: (row) => row.models_wrong },
        text("speaker", "speaker", { optional: true }), { title: "seconds", number: true, optional: true, cell: (row) => number(row.duration_s, true), key: (row) => row.duration_s },
      ], members);
      const node = table(`Worst of ${asked(members[0])}`, columns, members, { tall: true });
      const search = el("input", { type: "search", autocomplete: "off", oninput: () => {
        const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
        node.show(members.filter((row) => words.every((word) => [row.key, row.model, row.reference, row.hypothesis, row.speaker].join(" ").toLowerCase().includes(word))));
      } });
      return [el("div", { class: "controls" }, labelled("Filter (speaker, model, words …)", search)), node];
    })];
  }

  const count = (title, name) => ({ title, number: true, cell: (row) => String(row[name]), key: (row) => row[name] });
  const corpora = () => [table("What was scored", [text("corpus", "corpus", { head: true }), text("task", "task"), text("split", "split"), count("scored", "n"), count("blocks", "blocks"),
    count("trained on", "n_train"), text("conditions", "conditions", { words: true }), text("left out", "left_out", { words: true }), text("manifest", "manifest")], rowsOf(data.corpora))];
  const recipes = () => [
    table("Features", [text("model", "model", { head: true }), text("revision", "revision", { words: true }), text("corpus", "corpus"), text("condition", "condition", { words: true }),
      text("trained on", "train_condition", { words: true }), text("tasks", "task", { words: true }), text("recipe", "recipe")], rowsOf(data.recipes), { tall: true }),
    table("Code, libraries, device, seed", [text("version and commit", "code", { head: true }), text("device", "device"), text("seed", "seed"), count("records", "records"), text("packages", "packages", { words: true })],
      rowsOf(data.code)),
  ];
  const repeat = () => [el("pre", { tabindex: "0", "aria-label": "Commands" }, data.commands.join("\n\n"))];

  const plural = (n, one) => `${n} ${one}${n === 1 ? "" : "s"}`;
  document.title = byId("title").textContent = data.title;
  const tasks = distinct(data.questions.map((question) => question.task));
  const conditionNames = distinct(data.questions.map((question) => question.condition)).filter((name) => name && name !== "several");
  byId("asked").textContent = `Here: ${plural(data.models.length, "model")} (${data.models.join(", ")}), ${plural(tasks.length, "task")} (${tasks.join(", ")})`
    + `${conditionNames.length > 1 ? `, ${conditionNames.length} listening conditions` : ""}. ${data.baselines}`;
  byId("made").textContent = `Made by layerprobe ${data.version} from ${data.n_records} records. This file needs no network.`;
  byId("answers").append(...answers());
  for (const [id, build] of Object.entries({ scores, layers, conditions, domains, errors, data: corpora, recipes, repeat })) {
    const nodes = build();
    const section = byId(id);
    if (nodes.length) section.querySelector(".host").replaceChildren(...nodes);
    else section.remove();
  }
  byId("contents").append(...[...document.querySelectorAll("main > section")].map((section) =>
    el("li", {}, el("a", { href: `#${section.id}` }, section.querySelector("h2").textContent))));
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((node) => { node.open = true; });
    document.querySelectorAll(".more:not([hidden])").forEach((node) => node.click());
  });
})();
