// The 3D view: points, boxes, cameras and places in the level world (z up, metres), drawn by webgl.js.
// Without WebGL the section keeps its class "flat", and the picture from above stands for it.
"use strict";
(() => {
  const section = document.getElementById("viewer");
  const scene = JSON.parse(document.getElementById("scene").textContent);
  const canvas = section.querySelector("canvas");
  const gl = canvas.getContext("webgl", { antialias: true });
  if (!gl) return;
  const drawing = makeDrawing(gl);
  section.classList.remove("flat");

  // What is drawn. A segment: [start, end, colour, dashed]

  const plus = (a, b, scale = 1) => a.map((value, i) => value + scale * b[i]);
  const middle = (corners) => [0, 1, 2].map((i) => corners.reduce((sum, corner) => sum + corner[i], 0) / corners.length);
  const AXES = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
  const WHITE = [255, 255, 255];
  const edges = ({ corners, color, kind }) => scene.edges.map(([a, b]) => [corners[a], corners[b], color, kind === "truth"]);
  const star = (place, reach, color) => AXES.map((axis) => [plus(place, axis, -reach), plus(place, axis, reach), color]);

  const { low, high, forward, fov } = scene.view;
  const reach = Math.max(1, Math.hypot(...plus(high, low, -1)) / 2);
  const cell = 10 ** Math.max(0, Math.ceil(Math.log10(reach / 50)));
  section.querySelector(".cell").textContent = `${cell} m`;
  function grid() {
    const [from, to] = [low.map((v) => Math.floor(v / cell) * cell), high.map((v) => Math.ceil(v / cell) * cell)];
    const range = (axis) => Array.from({ length: (to[axis] - from[axis]) / cell + 1 }, (_, i) => from[axis] + i * cell);
    const color = [70, 78, 92];
    return [...range(0).map((x) => [[x, from[1], low[2]], [x, to[1], low[2]], color]),
      ...range(1).map((y) => [[from[0], y, low[2]], [to[0], y, low[2]], color])];
  }

  const said = scene.things.filter((thing) => thing.kind !== "truth");
  const groups = {
    grid: { width: 1, lines: drawing.lines(grid()) },
    cameras: { width: 1.5, lines: drawing.lines(scene.cameras.flatMap((camera, i) =>
      camera.map(([a, b]) => [a, b, i ? [165, 172, 184] : [0, 200, 90]]))) },
    truth: { width: 1.5, lines: drawing.lines([
      ...scene.things.filter((thing) => thing.kind === "truth").flatMap(edges),
      ...scene.spots.filter((spot) => spot.true).flatMap((spot) =>
        [...star(spot.true, 0.04, WHITE), [spot.xyz, spot.true, WHITE, true]])]) },
    boxes: { width: 2.5, lines: drawing.lines(said.flatMap(edges)) },
    places: { width: 3.5, lines: drawing.lines(scene.spots.flatMap((spot) => star(spot.xyz, 0.07, spot.color))) },
    focus: { width: 5, lines: drawing.lines([]) },
  };

  const cloud = scene.points && drawing.points(scene.points);

  // The camera: it looks at `target` from `distance`, turned by `yaw` about z from the y axis, and down by `pitch`

  const cut = section.querySelector("[name=cut]");
  const state = {};
  const looks = {
    reset: () => ({ yaw: -0.35, pitch: 0.75, target: middle([low, high]), distance: 1.9 * reach, fov: 0.8 }),
    top: () => ({ ...looks.reset(), yaw: 0, pitch: Math.PI / 2 }),
    side: () => ({ ...looks.reset(), yaw: 0, pitch: 0.12 }),
    camera: () => ({ yaw: 0, pitch: -Math.asin(forward[2]), target: forward.map((v) => 2 * v), distance: 2, fov }),
  };

  function look(name) {
    Object.assign(state, looks[name]());
    cut.value = name === "camera" ? cut.max : scene.view.cut; // the ceiling belongs to the camera's picture
    draw();
  }

  function basis() {
    const [s, c, sp, cp] = [Math.sin(state.yaw), Math.cos(state.yaw), Math.sin(state.pitch), Math.cos(state.pitch)];
    return { right: [c, s, 0], up: [-s * sp, c * sp, cp], ahead: [-s * cp, c * cp, -sp] };
  }

  function matrix(aspect) {
    const { right, up, ahead } = basis();
    const eye = plus(state.target, ahead, -state.distance);
    // A picture taller than wide keeps its horizontal angle instead.
    const f = Math.min(1, aspect) / Math.tan(state.fov / 2);
    const [near, far] = [0.02 + state.distance / 200, state.distance + 10 * reach + 20];
    const dot = (a) => a[0] * eye[0] + a[1] * eye[1] + a[2] * eye[2];
    const row = (axis, scale) => [...axis, -dot(axis)].map((v) => v * scale);
    const [x, y, z] = [row(right, f / aspect), row(up, f), row(ahead, 1)];
    const depth = z.map((v, i) => v * (far + near) / (far - near) - (i === 3 ? 2 * far * near / (far - near) : 0));
    return new Float32Array([0, 1, 2, 3].flatMap((i) => [x[i], y[i], depth[i], z[i]]));
  }

  // Drawing

  let waiting = 0;
  const draw = () => { waiting ||= requestAnimationFrame(() => { waiting = 0; render(); }); };
  const shown = (name) => section.querySelector(`[data-show=${name}]`)?.checked ?? true;

  function render() {
    const ratio = window.devicePixelRatio || 1;
    const size = [canvas.clientWidth, canvas.clientHeight];
    [canvas.width, canvas.height] = size.map((value) => Math.max(1, Math.round(value * ratio)));
    drawing.clear(canvas.width, canvas.height);
    const now = matrix(size[0] / size[1]);
    if (cloud && shown("points")) {
      const pixels = 0.03 * canvas.height / 2 / Math.tan(state.fov / 2); // 3 cm at a distance of one metre
      drawing.drawPoints(cloud, { matrix: now, size: pixels, most: 7 * ratio, cut: Number(cut.value) });
    }
    const screen = [canvas.width, canvas.height];
    for (const [name, group] of Object.entries(groups))
      if (shown(name)) drawing.drawLines(group.lines, { matrix: now, screen, width: group.width * ratio });
    placeLabels(now, size);
  }

  // Labels are text of the page, laid over the canvas; of two that overlap the nearer one stays.

  const layer = section.querySelector(".labels");
  const labels = [...said, ...scene.spots].map((item) => {
    const element = document.createElement("span");
    element.textContent = item.plate;
    const bright = 0.299 * item.color[0] + 0.587 * item.color[1] + 0.114 * item.color[2] > 140;
    element.style.cssText = `background: rgb(${item.color}); color: ${bright ? "#000" : "#fff"}`;
    layer.append(element);
    return { element, id: item.id, group: item.corners ? "boxes" : "places", place: item.xyz ?? middle(item.corners),
      size: [element.offsetWidth, element.offsetHeight] };
  });

  let focused = null;
  function placeLabels(now, size) {
    const rows = labels.map((label) => {
      const [x, y, , w] = [0, 1, 2, 3].map((i) =>
        now[i] * label.place[0] + now[4 + i] * label.place[1] + now[8 + i] * label.place[2] + now[12 + i]);
      return { ...label, x: (x / w + 1) / 2 * size[0], y: (1 - y / w) / 2 * size[1], w };
    });
    const taken = [];
    for (const row of rows.sort((a, b) => (b.id === focused) - (a.id === focused) || a.w - b.w)) {
      const [left, top] = [row.x - row.size[0] / 2, row.y - row.size[1] / 2];
      const inside = row.w > 0 && left >= 0 && top >= 0 && left + row.size[0] <= size[0] && top + row.size[1] <= size[1];
      const free = taken.every((other) => Math.abs(row.x - other.x) * 2 >= row.size[0] + other.size[0]
        || Math.abs(row.y - other.y) * 2 >= row.size[1] + other.size[1]);
      const visible = inside && free && shown("names") && shown(row.group);
      if (visible) taken.push(row);
      row.element.style.visibility = visible ? "visible" : "hidden";
      row.element.style.transform = `translate(${left}px, ${top}px)`;
    }
  }

  // Buttons, mouse, touch, keys

  for (const button of section.querySelectorAll("[data-look]"))
    button.addEventListener("click", () => look(button.dataset.look));
  section.addEventListener("input", draw);
  for (const button of document.querySelectorAll("button.find")) {
    const item = [...scene.things, ...scene.spots].find(({ id }) => id === button.dataset.id);
    if (!item) continue;
    button.disabled = false;
    button.addEventListener("click", () => {
      const corners = item.corners ?? [item.xyz];
      focused = item.id;
      groups.focus.lines = drawing.lines(item.corners ? edges(item) : star(item.xyz, 0.12, item.color));
      Object.assign(state, { target: middle(corners), fov: 0.8 });
      state.distance = 1.5 + 2 * Math.max(...corners.map((corner) => Math.hypot(...plus(corner, state.target, -1))));
      section.scrollIntoView({ behavior: "smooth", block: "nearest" });
      draw();
    });
  }

  const turn = (x, y) => {
    state.yaw -= x;
    state.pitch = Math.min(Math.PI / 2, Math.max(-Math.PI / 2, state.pitch + y));
  };
  const zoom = (factor) => { state.distance = Math.min(20 * reach, Math.max(0.1, state.distance * factor)); };
  const move = (x, y) => {
    const { right, up } = basis();
    const scale = 2 * state.distance * Math.tan(state.fov / 2) / canvas.clientHeight;
    state.target = plus(plus(state.target, right, -x * scale), up, y * scale);
  };

  const fingers = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, event);
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (e) => fingers.delete(e.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const [x, y] = [event.clientX - before.clientX, event.clientY - before.clientY];
    const other = [...fingers.values()].find(({ pointerId }) => pointerId !== event.pointerId);
    if (other) {
      const apart = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY);
      zoom(apart(before) / Math.max(1, apart(event)));
      move(x / 2, y / 2);
    } else if (event.shiftKey || event.buttons & 6) move(x, y);
    else turn(x * 0.008, y * 0.008);
    fingers.set(event.pointerId, event);
    draw();
  });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas) return; // the page scrolls until the view was clicked
    event.preventDefault();
    zoom(Math.exp(event.deltaY * 0.0012));
    draw();
  }, { passive: false });
  const KEYS = {
    ArrowLeft: () => turn(0.1, 0), ArrowRight: () => turn(-0.1, 0),
    ArrowUp: () => turn(0, 0.1), ArrowDown: () => turn(0, -0.1),
    "+": () => zoom(0.9), "=": () => zoom(0.9), "-": () => zoom(1.1),
    r: () => look("reset"), t: () => look("top"), s: () => look("side"), c: () => look("camera"),
  };
  canvas.addEventListener("keydown", (event) => {
    if (!KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    KEYS[event.key]();
    draw();
  });

  new ResizeObserver(draw).observe(canvas);
  look("reset");
})();
