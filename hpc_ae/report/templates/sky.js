// The sky map: nested HEALPix pixels in Mollweide's projection, right ascension 180 deg in the middle, east to the left.

/** Nested HEALPix pixel of a place in rad: Gorski et al. 2005, section 5. */
function healpixNested(order, lon, lat) {
  const side = 2 ** order;
  const z = Math.sin(lat);
  const quarter = (((lon / (Math.PI / 2)) % 4) + 4) % 4;
  let [face, x, y] = [0, 0, 0];
  if (Math.abs(z) <= 2 / 3) {
    const [up, down] = [side * (0.5 + quarter - 0.75 * z), side * (0.5 + quarter + 0.75 * z)].map(Math.floor);
    const [one, two] = [Math.floor(up / side), Math.floor(down / side)];
    face = one === two ? (one % 4) + 4 : one < two ? one % 4 : (two % 4) + 8;
    x = down % side;
    y = side - 1 - (up % side);
  } else {
    const part = Math.min(3, Math.floor(quarter));
    const along = quarter - part;
    const from = side * Math.sqrt(3 * (1 - Math.abs(z)));
    const [up, down] = [along * from, (1 - along) * from].map((value) => Math.min(side - 1, Math.floor(value)));
    face = z > 0 ? part : part + 8;
    [x, y] = z > 0 ? [side - 1 - down, side - 1 - up] : [up, down];
  }
  let within = 0;
  for (let bit = 0; bit < order; bit++) within |= (((x >> bit) & 1) << (2 * bit)) | (((y >> bit) & 1) << (2 * bit + 1));
  return face * side * side + within;
}

class Sky {
  constructor() {
    this.canvas = byId("sky-canvas");
    this.index = 0;
    this.mapName = page.colours.order[0];
    this.place = null; // [ra, dec] in deg under the pointer or the keyboard
  }

  async open() {
    const layers = page.sky.layers;
    this.values = await Promise.all(layers.map(unpack));
    fillSelect(byId("sky-colour"), layers.map((layer, i) => [i, layer.label]));
    fillSelect(byId("sky-map"), page.colours.order.map((name) => [name, name]));
    byId("sky-colour").addEventListener("change", (event) => { this.index = Number(event.target.value); this.draw(); });
    byId("sky-map").addEventListener("change", (event) => { this.mapName = event.target.value; this.draw(); });
    for (const name of ["pointermove", "pointerdown"]) this.canvas.addEventListener(name, (event) => this.point(event));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.canvas.parentElement);
    this.draw();
  }

  /** [ra, dec] in deg of a pixel of the map in CSS pixels; null outside of the sky. */
  inverse(px, py) {
    const y = ((this.height / 2 - py) / (this.height / 2)) * Math.SQRT2;
    const x = ((px - this.width / 2) / (this.width / 2)) * 2 * Math.SQRT2;
    const theta = Math.asin(Math.max(-1, Math.min(1, y / Math.SQRT2)));
    const lon = (Math.PI * x) / (2 * Math.SQRT2 * Math.cos(theta));
    if (Math.abs(y) > Math.SQRT2 || !(Math.abs(lon) <= Math.PI)) return null;
    const lat = Math.asin((2 * theta + Math.sin(2 * theta)) / Math.PI);
    return [180 - (lon * 180) / Math.PI, (lat * 180) / Math.PI];
  }

  forward(ra, dec) {
    const lat = (dec * Math.PI) / 180;
    let theta = lat;
    for (let i = 0; i < 50 && Math.abs(lat) < Math.PI / 2 - 1e-9; i++) {
      theta -= (2 * theta + Math.sin(2 * theta) - Math.PI * Math.sin(lat)) / (2 + 2 * Math.cos(2 * theta));
    }
    const lon = ((180 - ra) * Math.PI) / 180;
    return [
      this.width / 2 + (lon * Math.cos(theta) * this.width) / (2 * Math.PI),
      this.height / 2 - (Math.sin(theta) * this.height) / 2,
    ];
  }

  /** HEALPix pixel of every picture element, -1 outside; made once for each size. */
  raster(width, height) {
    if (this.rasterFor === `${width} ${height}`) return this.pixels;
    this.pixels = new Int32Array(width * height).fill(-1);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const place = this.inverse(((x + 0.5) * this.width) / width, ((y + 0.5) * this.height) / height);
        if (place) this.pixels[y * width + x] = this.pixelOf(place);
      }
    }
    this.rasterFor = `${width} ${height}`;
    return this.pixels;
  }

  pixelOf([ra, dec]) {
    return healpixNested(page.sky.order, (ra * Math.PI) / 180, (dec * Math.PI) / 180);
  }

  draw() {
    this.width = this.canvas.clientWidth;
    this.height = this.width / 2;
    if (!this.width) return;
    const legend = this.legend();
    this.paint(fit(this.canvas, this.height), legend.colouring);
    drawBar(byId("sky-bar"), legend);
    this.canvas.setAttribute("aria-label", `Sky map of ${legend.label}`);
  }

  /** The map as it is shown with its colour bar below: size, and how to paint it into a context. */
  figure() {
    const legend = this.legend();
    const across = Math.min(this.width, 448);
    const paint = (context) => {
      this.paint(context, legend.colouring);
      context.translate(0, this.height + 6);
      paintBar(context, legend, across);
    };
    return { width: this.width, height: this.height + 6 + barHeight(legend, across), paint };
  }

  /** What the colours mean: colouring, label and the categories that there are. */
  legend() {
    const layer = page.sky.layers[this.index];
    const values = this.values[this.index];
    const colouring = makeColouring(ends(values, layer.scale, 0.01), layer.scale, this.mapName);
    const label = layer.label + (layer.unit ? ` [${layer.unit}]` : "");
    const categories = [...new Set(layer.scale === "category" ? values : [])].filter((value) => value === value);
    return { colouring, label, categories: categories.sort((a, b) => a - b) };
  }

  paint(context, colouring) {
    const values = this.values[this.index];
    const [width, height] = [this.canvas.width, this.canvas.height];
    const picture = new OffscreenCanvas(width, height);
    const drawing = picture.getContext("2d");
    const image = drawing.createImageData(width, height);
    const out = new Uint32Array(image.data.buffer);
    const ground = this.ground(colouring.scale === "diverging" ? "ground" : "surface");
    this.raster(width, height).forEach((pixel, i) => {
      if (pixel < 0) return;
      const value = values[pixel];
      out[i] = value === value ? colourOf(colouring, value) : ground;
    });
    drawing.putImageData(image, 0, 0);
    context.drawImage(picture, 0, 0, this.width, this.height);
    this.drawGrid(context);
  }

  /** A colour of the theme as a pixel. */
  ground(name) {
    const context = new OffscreenCanvas(1, 1).getContext("2d");
    context.fillStyle = theme(name);
    context.fillRect(0, 0, 1, 1);
    return new Uint32Array(context.getImageData(0, 0, 1, 1).data.buffer)[0];
  }

  drawGrid(context) {
    context.strokeStyle = theme("quiet");
    context.lineWidth = 0.6;
    context.globalAlpha = 0.45;
    const line = (points) => {
      context.beginPath();
      points.forEach(([ra, dec]) => context.lineTo(...this.forward(ra, dec)));
      context.stroke();
    };
    const turn = (from, to, steps) => Array.from({ length: steps + 1 }, (_, i) => from + ((to - from) * i) / steps);
    for (const dec of [-60, -30, 0, 30, 60]) line(turn(0, 360, 90).map((ra) => [ra, dec]));
    for (const ra of [60, 120, 180, 240, 300]) line(turn(-90, 90, 60).map((dec) => [ra, dec]));
    context.globalAlpha = 1;
    for (const ra of [0, 360]) line(turn(-90, 90, 90).map((dec) => [ra, dec]));
    context.textAlign = "center";
    context.lineWidth = 3;
    context.strokeStyle = theme("paper");
    context.fillStyle = theme("ink");
    const write = (text, x, y) => {
      context.strokeText(text, x, y);
      context.fillText(text, x, y);
    };
    for (const ra of this.width > 500 ? [60, 120, 180, 240, 300] : [120, 240]) {
      const [x, y] = this.forward(ra, 0);
      write(`${ra}°`, x, y + 4);
    }
    if (this.width > 500) for (const dec of [-60, -30, 30, 60]) {
      const [x, y] = this.forward(180, dec);
      write(`${dec > 0 ? "+" : "−"}${Math.abs(dec)}°`, x, y + 4);
    }
    if (this.place) {
      const [x, y] = this.forward(...this.place);
      for (const [colour, width] of [["halo", 4], ["mark", 2]]) {
        context.strokeStyle = theme(colour);
        context.lineWidth = width;
        context.strokeRect(x - 5, y - 5, 10, 10);
      }
    }
    context.textAlign = "left";
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const place = this.inverse(event.clientX - box.left, event.clientY - box.top);
    if (place) this.show(place);
  }

  show(place) {
    const pixel = this.pixelOf(place);
    const parts = page.sky.layers.map((layer, i) => [layer.label, sayUnit(this.values[i][pixel], layer.unit)].join(" "));
    const [ra, dec] = place;
    const text = `RA ${ra.toFixed(1)}°, Dec ${dec.toFixed(1).replace("-", "−")}°, pixel ${pixel}: ${parts.join("; ")}`;
    byId("sky-cell").textContent = text;
    return text;
  }

  key(event) {
    const steps = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const step = steps[event.key];
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
    const width = 58.6 / 2 ** page.sky.order;
    const [ra, dec] = this.place || [180, 0];
    this.place = [(ra + step[0] * width + 360) % 360, Math.max(-89.9, Math.min(89.9, dec + step[1] * width))];
    this.draw();
    byId("sky-said").textContent = this.show(this.place);
    event.preventDefault();
  }
}
