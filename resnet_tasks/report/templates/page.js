"use strict";
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  document.getElementById("theme").addEventListener("click", () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
  });

  const tools = document.getElementById("tools");
  const gallery = document.getElementById("gallery");
  if (!tools || !gallery) return;

  for (const box of tools.querySelectorAll("input[data-layer]")) {
    const apply = () => {
      const layer = box.dataset.layer;
      if (layer === "differences") root.classList.toggle("show-differences", box.checked);
      else root.classList.toggle(`hide-${layer}`, !box.checked);
    };
    box.addEventListener("change", apply);
    apply(); // browsers keep the state of forms over a reload
  }

  const opacity = document.getElementById("opacity");
  if (opacity) {
    const apply = () => root.style.setProperty("--opacity", opacity.value);
    opacity.addEventListener("input", apply);
    apply();
  }

  const threshold = document.getElementById("threshold");
  if (threshold) {
    const apply = () => {
      const least = Number(threshold.value);
      document.getElementById("threshold-value").textContent = least.toFixed(2);
      for (const article of gallery.querySelectorAll("article")) {
        let right = 0, wrong = 0, missed = 0;
        const home = article.querySelector(".pair") || document.querySelector("#viewer .pair");
        for (const each of home.querySelectorAll(".boxes, .masks")) {
          const score = Number(each.dataset.score);
          const counts = each.classList.contains("boxes"); // a mask belongs to a counted box
          if (each.classList.contains("truth")) {
            const isMissed = score < least;
            each.classList.toggle("missed", isMissed);
            missed += counts && isMissed;
          } else {
            const isBelow = score < least;
            each.classList.toggle("below", isBelow);
            if (counts && !isBelow) each.classList.contains("wrong") ? wrong++ : right++;
          }
        }
        article.querySelector(".tally").textContent =
          `${right} correct, ${wrong} wrong, ${missed} missed`;
      }
    };
    threshold.addEventListener("input", apply);
    apply();
  }

  const viewer = document.getElementById("viewer");
  const stage = viewer.querySelector(".viewer-stage");
  let zoom = 1, pair = null, place = null;
  const setZoom = (value) => {
    zoom = Math.min(8, Math.max(1, value));
    stage.style.setProperty("--zoom", zoom);
  };
  const open = (chosen) => {
    pair = chosen;
    place = document.createComment("");
    pair.replaceWith(place);
    stage.replaceChildren(pair);
    viewer.querySelector(".viewer-tools").append(tools);
    setZoom(1);
    viewer.showModal();
    stage.focus();
  };
  viewer.addEventListener("close", () => {
    place.replaceWith(pair);
    document.getElementById("tools-home").append(tools);
    const back = pair;
    pair = null;
    back.focus();
  });
  for (const each of gallery.querySelectorAll(".pair")) {
    each.addEventListener("click", () => { if (!pair) open(each); });
    each.addEventListener("keydown", (event) => {
      if (!pair && (event.key === "Enter" || event.key === " ")) {
        event.preventDefault();
        open(each);
      }
    });
  }
  const steps = { in: () => setZoom(zoom * 1.4), out: () => setZoom(zoom / 1.4), fit: () => setZoom(1), close: () => viewer.close() };
  for (const each of viewer.querySelectorAll("[data-zoom]")) {
    each.addEventListener("click", () => steps[each.dataset.zoom]());
  }
  viewer.addEventListener("keydown", (event) => {
    const step = { "+": "in", "=": "in", "-": "out", "0": "fit" }[event.key];
    if (step) { event.preventDefault(); steps[step](); }
  });
  stage.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const before = zoom, box = stage.getBoundingClientRect();
    const x = event.clientX - box.left + stage.scrollLeft, y = event.clientY - box.top + stage.scrollTop;
    setZoom(zoom * (event.deltaY < 0 ? 1.15 : 1 / 1.15));
    stage.scrollLeft += x * (zoom / before - 1);
    stage.scrollTop += y * (zoom / before - 1);
  }, { passive: false });
  let drag = null;
  stage.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, y: event.clientY, left: stage.scrollLeft, top: stage.scrollTop };
  });
  addEventListener("pointermove", (event) => {
    if (!drag) return;
    stage.scrollLeft = drag.left - (event.clientX - drag.x);
    stage.scrollTop = drag.top - (event.clientY - drag.y);
  });
  addEventListener("pointerup", () => { drag = null; });
})();
