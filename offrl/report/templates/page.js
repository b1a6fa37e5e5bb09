"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("drawing").textContent);
  const root = document.documentElement;
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const COLOURS = 8;
  const PRINTED = 690; // pixels of a printed page between its margins
  let printing = false;

  // Plotly reads a little markup in what it draws; names are names.
  const plain = (text) =>
    String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  const faded = (hex, alpha) => {
    const n = parseInt(hex.slice(1), 16);
    return `rgba(${n >> 16}, ${(n >> 8) & 255}, ${n & 255}, ${alpha})`;
  };
  const stroke = (number) => ({
    color: colour(`--s${number % COLOURS}`),
    dash: DASHES[Math.floor(number / COLOURS) % DASHES.length],
  });

  const axis = (title) => ({
    title: { text: plain(title), font: { size: 12, color: colour("--soft") }, standoff: 8 },
    gridcolor: colour("--line"),
    zeroline: false,
    linecolor: colour("--line"),
    tickfont: { size: 11.5, color: colour("--soft") },
    automargin: true,
    fixedrange: matchMedia("(pointer: coarse)").matches,
  });
  const sheet = (height) => ({
    height,
    width: printing ? PRINTED : undefined,
    autosize: !printing,
    showlegend: false,
    margin: { l: 52, r: 12, t: 10, b: 44 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, color: colour("--ink") },
    hovermode: "x unified",
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    hoverlabel: {
      bgcolor: colour("--card"),
      bordercolor: colour("--line"),
      font: { color: colour("--ink"), size: 12 },
    },
  });

  function curves(chart) {
    const traces = [];
    const metric = chart.metric;
    for (const arm of chart.spec.arms) {
      const curve = arm.curves[metric];
      if (!curve || chart.hidden.has(arm.number)) continue;
      const { color, dash } = stroke(arm.number);
      const each = chart.each && curve.each.length;
      if (each) {
        curve.each.forEach((y, place) =>
          traces.push({
            x: curve.x, y, mode: "lines", connectgaps: true, hoverinfo: "skip",
            line: { color: faded(color, 0.5), width: 1, dash },
            name: plain(`${arm.label}, seed ${curve.seeds[place]}`),
          }));
      } else if (curve.low) {
        const known = curve.x.map((_, k) => k).filter((k) => curve.low[k] !== null);
        const back = [...known].reverse();
        traces.push({
          x: [...known, ...back].map((k) => curve.x[k]),
          y: [...known.map((k) => curve.high[k]), ...back.map((k) => curve.low[k])],
          fill: "toself", fillcolor: faded(color, 0.16), mode: "lines", line: { width: 0 },
          hoverinfo: "skip", name: plain(`${arm.label}, 95% interval`),
        });
      }
      traces.push({
        x: curve.x, y: curve.mean, customdata: curve.n, name: plain(arm.label), connectgaps: true,
        mode: curve.x.length > 40 ? "lines" : "lines+markers",
        line: { color, width: 2, dash }, marker: { size: 5, color },
        hovertemplate: `%{y:.4~g} <span>(n=%{customdata})</span><extra>${plain(arm.label)}</extra>`,
      });
    }
    const layout = sheet(chart.spec.height);
    layout.xaxis = axis(chart.spec.x);
    layout.yaxis = axis(metric === "eval/return_mean" ? "return" : metric);
    layout.shapes = (chart.spec.lines || []).map((one) => ({
      type: "line", xref: "paper", x0: 0, x1: 1, y0: one.y, y1: one.y,
      line: { color: colour("--soft"), width: 1, dash: "dot" },
    }));
    layout.annotations = (chart.spec.lines || []).map((one) => ({
      xref: "paper", x: 1, y: one.y, xanchor: "right", yanchor: "bottom", showarrow: false,
      text: plain(one.label), font: { size: 11, color: colour("--soft") },
    }));
    return [traces, layout];
  }

  function forest(chart) {
    const names = chart.spec.arms.map((one) => one.label);
    const rows = chart.spec.rows;
    const step = 1 / (names.length + 1);
    const traces = [];
    chart.spec.arms.forEach((arm, place) => {
      if (chart.hidden.has(arm.number)) return;
      const { color } = stroke(arm.number);
      const found = rows
        .map((row, k) => ({ row, y: -(k + (place + 1) * step), one: row.estimates[arm.label] }))
        .filter(({ one }) => one);
      traces.push({
        x: found.map(({ one }) => one.value), y: found.map(({ y }) => y),
        error_x: {
          type: "data", symmetric: false, thickness: 1.5, width: 3, color,
          array: found.map(({ one }) => (one.high === null ? 0 : one.high - one.value)),
          arrayminus: found.map(({ one }) => (one.low === null ? 0 : one.value - one.low)),
        },
        mode: "markers", marker: { size: 8, color }, name: plain(arm.label),
        customdata: found.map(({ one }) => plain(one.told)),
        hovertemplate: "%{customdata}<extra></extra>",
      });
    });
    const known = rows.map((row, k) => ({ row, k })).filter(({ row }) => row.truth !== null);
    // The lines of the truth are shapes, which an axis does not make room for; these it does.
    traces.push({
      x: known.flatMap(({ row }) => [...(row.truth_ci || []), row.truth]),
      y: known.flatMap(({ row, k }) => [...(row.truth_ci || []), row.truth].map(() => -k - 0.5)),
      mode: "markers", marker: { size: 10, opacity: 0 }, name: "truth",
      hovertemplate: "truth %{x:.4~g}<extra></extra>",
    });
    const layout = sheet(70 + rows.length * (30 + names.length * 17));
    layout.hovermode = "closest";
    layout.xaxis = axis(chart.spec.x);
    layout.yaxis = {
      ...axis(""), showticklabels: false, showgrid: false, range: [-rows.length, 0],
      tickvals: [], fixedrange: true,
    };
    layout.margin = { l: 12, r: 12, t: 18, b: 44 };
    const across = (y) => ({ xref: "paper", x0: 0, x1: 1, yref: "y", y0: y, y1: y });
    const at = (x, k) => ({ xref: "x", x0: x, x1: x, yref: "y", y0: -k - 0.04, y1: -k - 0.96 });
    layout.shapes = rows.slice(1).map((_, k) => ({
      type: "line", ...across(-k - 1), line: { color: colour("--line"), width: 1 },
    }));
    layout.shapes.push({
      type: "line", xref: "x", x0: chart.spec.behavior, x1: chart.spec.behavior, yref: "paper",
      y0: 0, y1: 1, line: { color: colour("--soft"), width: 1, dash: "dot" },
    });
    for (const { row, k } of known) {
      const ends = row.truth_ci || [row.truth, row.truth];
      layout.shapes.push({
        type: "rect", xref: "x", x0: ends[0], x1: ends[1], yref: "y", y0: -k - 0.04, y1: -k - 0.96,
        line: { width: 0 }, fillcolor: faded(colour("--ink"), 0.09), layer: "below",
      }, { type: "line", ...at(row.truth, k), line: { color: colour("--ink"), width: 2 } });
    }
    layout.annotations = rows.map((row, k) => ({
      xref: "paper", x: 0, xanchor: "left", y: -k, yanchor: "top", showarrow: false,
      text: plain(row.label), font: { size: 12.5, color: colour("--ink") },
      bgcolor: colour("--card"),
    }));
    layout.annotations.push({
      xref: "x", x: chart.spec.behavior, yref: "paper", y: 1, yanchor: "bottom", showarrow: false,
      text: "behavior", font: { size: 11, color: colour("--soft") },
    });
    return [traces, layout];
  }

  const KINDS = { curves, forest };
  const drawn = [];
  function draw(chart) {
    const [traces, layout] = KINDS[chart.spec.kind](chart);
    return Plotly.react(chart.place, traces, layout, {
      displayModeBar: false, responsive: true, displaylogo: false, showTips: false,
    });
  }

  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    const spec = charts[figure.dataset.chart];
    const chart = {
      spec, place: figure.querySelector(".plot"), hidden: new Set(), each: false,
      metric: spec.metric,
    };
    drawn.push(chart);
    for (const key of figure.querySelectorAll("button[data-arm]")) {
      key.addEventListener("click", () => {
        const number = Number(key.dataset.arm);
        const shown = chart.hidden.delete(number) || !chart.hidden.add(number);
        key.setAttribute("aria-pressed", String(shown));
        draw(chart);
      });
    }
    const each = figure.querySelector("button[data-each]");
    each?.addEventListener("click", () => {
      chart.each = !chart.each;
      each.setAttribute("aria-pressed", String(chart.each));
      draw(chart);
    });
    figure.querySelector("select")?.addEventListener("change", (event) => {
      chart.metric = event.target.value;
      draw(chart);
    });
  }

  const all = () => Promise.all(drawn.map(draw));
  const print = (on) => {
    printing = on;
    root.toggleAttribute("data-printing", on);
    all();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  all().then(() => {
    document.getElementById("js-plotly-tester")?.setAttribute("aria-hidden", "true"); // measures text
    performance.mark("charts drawn");
    root.dataset.drawn = String(drawn.length);
  });

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button")?.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((one) => one.hasAttribute("aria-sort") && one.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const body = table.tBodies[0];
        const key = (row) => row.cells[column].dataset.key;
        const order = (a, b) => {
          const [x, y] = [key(a), key(b)];
          if (x === "" || y === "") return (x === "") - (y === ""); // what is missing comes last
          const [p, q] = [Number(x), Number(y)];
          const less = Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q;
          return up ? less : -less;
        };
        body.append(...[...body.rows].sort(order));
      });
    });
  }
})();
