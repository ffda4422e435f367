// Reading a chart with the pointer or the arrow keys: a line on the plot, the values in words.
(() => {
  "use strict";

  const read = (figure) => {
    if (!figure.chartData) figure.chartData = JSON.parse(figure.dataset.chart);
    return figure.chartData;
  };

  const nearest = (points, x) => {
    let best = null;
    for (const point of points) {
      if (best === null || Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
    }
    return best;
  };

  const show = (figure, share) => {
    const data = read(figure);
    const [low, high] = data.domain;
    const at = nearest(data.series.flatMap((one) => one.points), low + share * (high - low));
    if (!at) return;
    const cursor = figure.querySelector(".chart-cursor");
    cursor.hidden = false;
    cursor.style.left = `${(100 * (at[0] - low)) / (high - low || 1)}%`;
    const words = data.series
      .map((one) => [one, nearest(one.points, at[0])])
      .filter(([, point]) => point)
      .map(([one, point]) => `${one.label} ${point[2]}`);
    figure.querySelector(".chart-readout").textContent = `${data.x} ${at[3]}: ${words.join(", ")}`;
    figure.chartAt = (at[0] - low) / (high - low || 1);
  };

  // A chart that is read while a new one takes its place goes on being read there.
  let reading = null; // the id of its title, and how far along
  document.body.addEventListener("htmx:afterSwap", () => {
    if (!reading) return;
    const title = document.getElementById(reading.title);
    const figure = title && title.closest("[data-chart]");
    if (figure && figure.querySelector(".chart-cursor")) show(figure, reading.share);
  });

  const hide = (figure) => {
    figure.querySelector(".chart-cursor").hidden = true;
    figure.querySelector(".chart-readout").textContent = "";
  };

  document.addEventListener("pointermove", (event) => {
    const plot = event.target.closest && event.target.closest(".chart-plot");
    if (!plot) return;
    const box = plot.getBoundingClientRect();
    const figure = plot.closest("[data-chart]");
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    reading = { title: figure.getAttribute("aria-labelledby"), share };
    show(figure, share);
  });
  document.addEventListener("pointerout", (event) => {
    const plot = event.target.closest && event.target.closest(".chart-plot");
    if (!plot || !plot.isConnected || plot.contains(event.relatedTarget)) return;
    reading = null;
    hide(plot.closest("[data-chart]"));
  });
})();
