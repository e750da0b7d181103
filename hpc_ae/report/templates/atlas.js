// The latent plane on a canvas: zoom, pan, cells under the pointer or the keyboard, their stars.

const MARGIN = { left: 54, right: 10, top: 10, bottom: 44 };
const LEAST_VIEW = 1 / 256; // of the plane's width
const STARS_FROM_ZOOM = 5;
const MARKED = 100; // of the table's stars

/** A place of the window, or the nearest on its edge. */
function inside({ x, y }) {
  const [one, two] = [x, y].map((value) => Math.max(0, Math.min(1 - 1e-9, value)));
  return { x: one, y: two };
}

class Atlas {
  constructor(sample) {
    this.canvas = byId("atlas");
    this.sample = sample;
    this.planes = [];
    this.view = { x: 0, y: 0, size: 1 }; // lower left corner and width, in units of the window
    this.cell = null; // under the pointer: {x, y} in units of the window
    this.pinned = null;
    this.pictures = new Map();
    this.pointers = new Map();
    this.index = -1;
    this.mapName = page.colours.order[0];
  }

  async open() {
    fillSelect(byId("atlas-panel"), page.atlas.map((panel, i) => [i, panel.labels.join(" × ")]));
    fillSelect(byId("atlas-map"), page.colours.order.map((name) => [name, name]));
    await this.choosePanel(0);
    this.listen();
  }

  async choosePanel(number) {
    this.planes[number] ??= await Plane.load(page.atlas[number]);
    this.plane = this.planes[number];
    const spec = this.plane.spec;
    const kept = this.index >= 0 ? byId("atlas-colour").selectedOptions[0].text : "";
    fillSelect(byId("atlas-colour"), [[-1, "density of stars"], ...spec.layers.map((layer, i) => [i, layer.label])]);
    this.index = spec.layers.findIndex((layer) => layer.label === kept);
    byId("atlas-colour").value = this.index;
    this.pictures.clear();
    this.cell = this.pinned = null;
    this.whole();
  }

  listen() {
    const change = (id, act) => byId(id).addEventListener("change", act);
    change("atlas-panel", (event) => this.choosePanel(Number(event.target.value)));
    change("atlas-colour", (event) => { this.index = Number(event.target.value); this.draw(); });
    change("atlas-map", (event) => { this.mapName = event.target.value; this.pictures.clear(); this.draw(); });
    for (const id of ["atlas-points", "atlas-marks", "atlas-ridge"]) change(id, () => this.draw());
    byId("atlas-points").parentElement.hidden = !this.sample;
    byId("atlas-marks").parentElement.hidden = !page.marks.length;
    byId("atlas-ridge").parentElement.hidden = !page.ridge.length;
    byId("atlas-in").addEventListener("click", () => this.zoom(0.5));
    byId("atlas-out").addEventListener("click", () => this.zoom(2));
    byId("atlas-whole").addEventListener("click", () => this.whole());
    const on = (name, act, options) => this.canvas.addEventListener(name, act, options);
    on("wheel", (event) => this.wheel(event), { passive: false });
    on("pointerdown", (event) => this.press(event));
    on("pointermove", (event) => this.move(event));
    on("pointerup", (event) => this.release(event, true));
    on("pointercancel", (event) => this.release(event, false));
    on("pointerleave", () => { if (!this.pointers.size) this.showCell(this.pinned); });
    on("keydown", (event) => this.key(event));
    on("dblclick", (event) => this.zoom(0.5, this.place(event)));
    byId("atlas-find").addEventListener("change", (event) => this.find(event.target.value.trim()));
    new ResizeObserver(() => this.draw()).observe(this.canvas.parentElement);
  }

  /** Where an event is, in units of the window; null outside of the axes. */
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = (event.clientX - box.left - MARGIN.left) / this.plot;
    const y = (event.clientY - box.top - MARGIN.top) / this.plot;
    if (x < 0 || x >= 1 || y <= 0 || y > 1) return null;
    return { x: this.view.x + x * this.view.size, y: this.view.y + (1 - y) * this.view.size };
  }

  whole() {
    this.view = { x: 0, y: 0, size: 1 };
    this.draw();
  }

  zoom(factor, about) {
    const old = this.view;
    const middle = about || this.cell || { x: old.x + old.size / 2, y: old.y + old.size / 2 };
    const size = Math.max(LEAST_VIEW, Math.min(1, old.size * factor));
    const keep = size / old.size;
    this.view = { x: middle.x - (middle.x - old.x) * keep, y: middle.y - (middle.y - old.y) * keep, size };
    this.draw();
  }

  pan(x, y) {
    this.view = { ...this.view, x: this.view.x + x, y: this.view.y + y };
    this.draw();
  }

  wheel(event) {
    if (document.activeElement !== this.canvas && !event.ctrlKey) {
      byId("atlas-hint").hidden = false;
      clearTimeout(this.hintTimer);
      this.hintTimer = setTimeout(() => { byId("atlas-hint").hidden = true; }, 1500);
      return;
    }
    event.preventDefault();
    this.zoom(Math.exp(Math.max(-1, Math.min(1, event.deltaY * (event.ctrlKey ? 0.01 : 0.002)))), this.place(event));
  }

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    this.moved = this.pointers.size > 1;
    byId("atlas-hint").hidden = true;
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return this.showCell(this.place(event) || this.pinned);
    const far = Math.hypot(event.clientX - before.clientX, event.clientY - before.clientY);
    if (!this.moved && far < 4) return;
    this.moved = true;
    if (this.pointers.size === 1) {
      const unit = this.view.size / this.plot;
      this.pan((before.clientX - event.clientX) * unit, (event.clientY - before.clientY) * unit);
    } else {
      const other = [...this.pointers.values()].find((one) => one.pointerId !== event.pointerId);
      const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
      const middle = { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 };
      this.zoom(apart(before) / apart(event), this.place(middle));
    }
    this.pointers.set(event.pointerId, event);
  }

  release(event, isClick) {
    this.pointers.delete(event.pointerId);
    if (!isClick || this.moved) return;
    const place = this.place(event);
    if (place) this.pin(place);
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (steps[event.key]) this.step(steps[event.key], event.shiftKey);
    else if (event.key === "+" || event.key === "=") this.zoom(0.5);
    else if (event.key === "-" || event.key === "_") this.zoom(2);
    else if (event.key === "0" || event.key === "Home") this.whole();
    else if (event.key === "Enter" || event.key === " ") this.pin(this.cell || this.middle());
    else return;
    event.preventDefault();
  }

  middle() {
    return { x: this.view.x + this.view.size / 2, y: this.view.y + this.view.size / 2 };
  }

  /** Go to a neighbouring cell, or move the view by an eighth. */
  step([x, y], moveView) {
    if (moveView) return this.pan((x * this.view.size) / 8, (y * this.view.size) / 8);
    const from = this.cell || this.middle();
    const width = Math.max(1 / this.side, this.view.size / 64);
    const to = inside({ x: from.x + x * width, y: from.y + y * width });
    this.cell = this.pinned = to;
    const view = this.view;
    if (to.x < view.x || to.x > view.x + view.size) view.x = to.x - view.size / 2;
    if (to.y < view.y || to.y > view.y + view.size) view.y = to.y - view.size / 2;
    this.draw();
    byId("atlas-said").textContent = this.readout(this.bounds(to)).map((pair) => pair.join(" ")).join(", ");
  }

  draw() {
    if (!this.plane) return;
    const width = this.canvas.clientWidth;
    this.plot = Math.max(80, Math.min(width - MARGIN.left - MARGIN.right, 760));
    const view = this.view;
    for (const axis of ["x", "y"]) view[axis] = Math.max(0, Math.min(1 - view.size, view[axis]));
    this.side = this.plane.sideFor(this.plot / view.size, 1.15);
    this.canvas.style.touchAction = view.size < 1 ? "none" : "pan-y";
    const colouring = this.paint(fit(this.canvas, this.plot + MARGIN.top + MARGIN.bottom));
    this.showCell(this.cell);
    this.drawLegend(this.legend(colouring));
  }

  paint(context) {
    const colouring = this.drawCells(context);
    this.drawOver(context);
    this.drawAxes(context);
    return colouring;
  }

  /** The map as it is shown with its colour bar below: size, and how to paint it into a context. */
  figure() {
    const [width, height] = [this.plot + MARGIN.left + MARGIN.right, this.plot + MARGIN.top + MARGIN.bottom];
    const legend = this.legend(this.plane.colouring(this.index, this.side, this.mapName));
    const paint = (context) => {
      this.paint(context);
      context.translate(MARGIN.left, height + 6);
      paintBar(context, legend, this.plot);
    };
    return { width, height: height + 6 + barHeight(legend, this.plot), paint };
  }

  drawCells(context) {
    const key = `${this.index} ${this.side} ${this.mapName}`;
    if (!this.pictures.has(key)) {
      const colouring = this.plane.colouring(this.index, this.side, this.mapName);
      this.pictures.set(key, { colouring, picture: this.plane.paint(this.index, this.side, colouring) });
    }
    const { colouring, picture } = this.pictures.get(key);
    const { x, y, size } = this.view;
    const scale = this.side;
    context.fillStyle = theme(colouring.scale === "diverging" ? "ground" : "surface");
    context.fillRect(MARGIN.left, MARGIN.top, this.plot, this.plot);
    context.imageSmoothingEnabled = this.plot / (size * scale) < 1;
    context.drawImage(picture, x * scale, (1 - y - size) * scale, size * scale, size * scale,
      MARGIN.left, MARGIN.top, this.plot, this.plot);
    return colouring;
  }

  /** What the colours mean: colouring, label and the categories that there are. */
  legend(colouring) {
    const layer = this.plane.spec.layers[this.index];
    const label = layer ? layer.label + (layer.unit ? ` [${layer.unit}]` : "") : "stars per unit area";
    const categories = layer && layer.scale === "category"
      ? [...new Set(this.plane.layers[this.index].get(layer.shape[0]))].filter((value) => value === value).sort((a, b) => a - b)
      : [];
    return { colouring, label, categories };
  }

  drawLegend(legend) {
    drawBar(byId("atlas-bar"), legend);
    const spec = this.plane.spec;
    const zoomed = this.view.size < 1 ? `, zoomed ${say(1 / this.view.size, 2)} times` : "";
    this.canvas.setAttribute("aria-label", `Stars in the plane of ${spec.labels.join(" and ")}, coloured by ${legend.label}${zoomed}`);
    byId("atlas-in").disabled = this.view.size <= LEAST_VIEW;
    byId("atlas-out").disabled = this.view.size >= 1;
  }

  /** Window units from latent values, and pixels from window units. */
  toUnits(latent) {
    const { dimensions, window: [[x0, x1], [y0, y1]] } = this.plane.spec;
    const [one, two] = dimensions.map((k) => latent(k) ?? NaN); // null: not known, drawn nowhere
    return { x: (one - x0) / (x1 - x0), y: (two - y0) / (y1 - y0) };
  }

  toPixels({ x, y }) {
    const { size } = this.view;
    return [
      MARGIN.left + ((x - this.view.x) / size) * this.plot,
      MARGIN.top + (1 - (y - this.view.y) / size) * this.plot,
    ];
  }

  drawOver(context) {
    context.save();
    context.beginPath();
    context.rect(MARGIN.left, MARGIN.top, this.plot, this.plot);
    context.clip();
    if (page.ridge.length && byId("atlas-ridge").checked) this.drawRidge(context);
    if (this.sample && byId("atlas-points").checked && this.view.size <= 1 / STARS_FROM_ZOOM) this.drawStars(context);
    if (byId("atlas-marks").checked) this.drawMarks(context);
    if (this.pinned) this.drawCross(context, this.pinned);
    context.restore();
  }

  drawRidge(context) {
    context.beginPath();
    page.ridge.forEach((point, i) => {
      const [x, y] = this.toPixels(this.toUnits((k) => point[k]));
      if (i) context.lineTo(x, y); else context.moveTo(x, y);
    });
    for (const [colour, width] of [["halo", 4], ["cross", 1.6]]) {
      context.strokeStyle = theme(colour);
      context.lineWidth = width;
      context.stroke();
    }
  }

  drawStars(context) {
    const radius = Math.min(4.5, 1.4 + 0.5 * Math.log2(1 / (STARS_FROM_ZOOM * this.view.size)));
    const [fill, line] = [theme("halo"), theme("cross")];
    context.lineWidth = 0.9;
    for (let i = 0; i < this.sample.num; i++) {
      const place = this.sample.place(i, this);
      if (!this.inView(place)) continue;
      const [x, y] = this.toPixels(place);
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fillStyle = fill;
      context.fill();
      context.strokeStyle = line;
      context.stroke();
    }
  }

  inView({ x, y }) {
    const view = this.view;
    return x >= view.x && x <= view.x + view.size && y >= view.y && y <= view.y + view.size;
  }

  drawMarks(context) {
    for (const index of parts.table ? parts.table.first(MARKED) : []) {
      const mark = page.marks[index];
      if (!mark) continue;
      const [x, y] = this.toPixels(inside(this.toUnits((k) => mark.latent[k])));
      context.beginPath();
      for (const [dx, dy] of [[0, -4], [4, 0], [0, 4], [-4, 0]]) context.lineTo(x + dx, y + dy);
      context.closePath();
      context.lineWidth = 3;
      context.strokeStyle = theme("halo");
      context.stroke();
      context.lineWidth = 1.3;
      context.strokeStyle = theme("mark");
      context.stroke();
    }
  }

  drawCross(context, place) {
    const { x0, y0, width } = this.bounds(place);
    const [left, bottom] = this.toPixels({ x: x0, y: y0 });
    const size = Math.max(9, (width / this.view.size) * this.plot);
    const shift = (size - (width / this.view.size) * this.plot) / 2;
    for (const [colour, line] of [["halo", 4], ["mark", 2]]) {
      context.strokeStyle = theme(colour);
      context.lineWidth = line;
      context.strokeRect(left - shift, bottom - size + shift, size, size);
    }
  }

  drawAxes(context) {
    const { labels, window: spans } = this.plane.spec;
    const { left, top } = MARGIN;
    const bottom = top + this.plot;
    context.strokeStyle = theme("quiet");
    context.lineWidth = 1;
    context.strokeRect(left + 0.5, top + 0.5, this.plot - 1, this.plot - 1);
    const most = this.plot > 420 ? 6 : 4;
    const span = (k, start) => [0, 1].map((end) => spans[k][0] + (start + end * this.view.size) * (spans[k][1] - spans[k][0]));
    for (const [k, start] of [[0, this.view.x], [1, this.view.y]]) {
      const [low, high] = span(k, start);
      for (const tick of roundTicks(low, high, most)) {
        const at = ((tick - low) / (high - low)) * this.plot;
        context.fillStyle = theme("quiet");
        if (k === 0) {
          context.fillRect(left + at - 0.5, bottom, 1, 4);
          context.textAlign = "center";
          context.fillText(say(tick, 6), left + at, bottom + 17);
        } else {
          context.fillRect(left - 4, bottom - at - 0.5, 4, 1);
          context.textAlign = "right";
          context.fillText(say(tick, 6), left - 7, bottom - at + 4);
        }
      }
    }
    context.fillStyle = theme("ink");
    context.textAlign = "center";
    context.fillText(labels[0], left + this.plot / 2, bottom + 36);
    context.save();
    context.translate(12, top + this.plot / 2);
    context.rotate(-Math.PI / 2);
    context.fillText(labels[1], 0, 0);
    context.restore();
    context.textAlign = "left";
  }

  /** The cell of the shown resolution that holds a place: its index, lower left corner and width. */
  bounds(place) {
    const [i, j] = [place.x, place.y].map((value) => Math.min(this.side - 1, Math.floor(value * this.side)));
    return { i, j, x0: i / this.side, y0: j / this.side, width: 1 / this.side };
  }

  readout({ i, j, x0, y0, width }) {
    const { labels, window: spans, layers } = this.plane.spec;
    const cell = i * this.side + j;
    const num = this.plane.counts.get(this.side)[cell];
    const value = (k, at) => say(spans[k][0] + at * (spans[k][1] - spans[k][0]), 4);
    return [
      [labels[0], `${value(0, x0)} … ${value(0, x0 + width)}`],
      [labels[1], `${value(1, y0)} … ${value(1, y0 + width)}`],
      ["stars", whole(num)],
      ["stars per unit area", num ? say(num / this.plane.cellArea(this.side), 3) : "–"],
      ...layers.map((layer, k) => [layer.label, sayUnit(this.plane.layer(k, this.side)[cell], layer.unit)]),
    ];
  }

  showCell(place) {
    this.cell = place;
    if (place) describe(byId("atlas-cell"), this.readout(this.bounds(place)));
  }

  /** List the stars of a cell; of the nearest that has any where it is empty. */
  pin(place) {
    const { i, j } = this.bounds(place);
    const cell = this.plane.nearestOccupied(i, j, this.side);
    const isOwn = !cell || (cell[0] === i && cell[1] === j);
    this.listStars(isOwn ? place : { x: (cell[0] + 0.5) / this.side, y: (cell[1] + 0.5) / this.side });
  }

  listStars(place, chosen) {
    this.cell = this.pinned = place;
    this.draw();
    const cell = this.bounds(place);
    const num = this.plane.counts.get(this.side)[cell.i * this.side + cell.j];
    const title = byId("atlas-stars-title");
    byId("atlas-stars").hidden = false;
    this.listStrange(cell);
    if (!this.sample) {
      title.textContent = `${whole(num)} stars in the cell; the page holds no single stars`;
      return;
    }
    const near = this.sample.near(cell, this);
    title.textContent = this.sample.title(num, near);
    byId("atlas-said").textContent = title.textContent;
    this.sample.list(near.found, chosen);
  }

  /** Which of the table's stars are in a cell, or under the finger. */
  listStrange({ x0, y0, width }) {
    const reach = Math.max(width / 2, (8 / this.plot) * this.view.size);
    const found = page.marks.flatMap((mark, i) => {
      const { x, y } = inside(this.toUnits((k) => mark.latent[k]));
      return Math.max(Math.abs(x - x0 - width / 2), Math.abs(y - y0 - width / 2)) <= reach ? [i] : [];
    });
    const line = byId("atlas-strange");
    line.hidden = !found.length;
    line.replaceChildren("Of the strangest stars: ", ...found.slice(0, 10).flatMap((i, k) => {
      const link = document.createElement("a");
      link.href = `#anomaly-${i + 1}`;
      link.textContent = `rank ${i + 1}, ${page.marks[i].objid}`;
      link.addEventListener("click", () => parts.table.reveal(i));
      return k ? ["; ", link] : [link];
    }));
  }

  /** Go to the star of an id, of those that the page holds. */
  find(text) {
    const said = byId("atlas-found");
    said.textContent = "";
    if (!text) return;
    const star = this.sample && /^-?\d{1,19}$/.test(text) ? this.sample.indexOf(BigInt(text)) : -1;
    const mark = page.marks.find((one) => one.objid === text);
    if (star >= 0) this.goTo(this.sample.latentOf(star), star);
    else if (mark) this.goTo(mark.latent);
    else {
      const held = this.sample && this.sample.isComplete ? "with a latent" : "that the page holds";
      said.textContent = `${text} is not among the stars ${held}; hpc-ae query ENCODING --objid asks for any`;
    }
  }

  /** Bring a place into view and list its stars. */
  goTo(latent, chosen) {
    const place = inside(this.toUnits((k) => latent[k]));
    if (!(place.x + place.y >= 0)) return;
    const size = Math.min(this.view.size, 1 / 8);
    this.view = { x: place.x - size / 2, y: place.y - size / 2, size };
    this.draw();
    this.listStars(place, chosen);
    byId("latent-plane").scrollIntoView();
    this.canvas.focus({ preventScroll: true });
  }
}
