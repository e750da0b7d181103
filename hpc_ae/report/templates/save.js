// Figures as SVG files: what is drawn on a canvas is drawn again as lines and letters; only cells stay pixels.

const SVG = "http://www.w3.org/2000/svg";
const STATE = ["fillStyle", "strokeStyle", "lineWidth", "font", "textAlign", "globalAlpha", "transform", "clipPath"];
const INLINED = [
  "fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "opacity", "font-family", "font-size",
  "font-weight", "text-anchor",
];
const FINER = 3; // pixels of a saved map for one of the screen

const rounded = (value) => String(Math.round(value * 100) / 100);

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) if (value !== "") made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** As much of a canvas's context as the maps use, written into an SVG element. */
class SvgContext {
  constructor(root) {
    this.root = root;
    this.states = [];
    this.d = "";
    this.ruler = new OffscreenCanvas(1, 1).getContext("2d");
    Object.assign(this, { fillStyle: "black", strokeStyle: "black", lineWidth: 1, font: lettering(), textAlign: "left" });
    Object.assign(this, { globalAlpha: 1, transform: "", clipPath: "", numClips: 0 });
  }

  save() { this.states.push(STATE.map((name) => this[name])); }
  restore() { this.states.pop().forEach((value, i) => { this[STATE[i]] = value; }); }
  translate(x, y) { this.transform += `translate(${rounded(x)} ${rounded(y)})`; }
  rotate(angle) { this.transform += `rotate(${rounded((angle * 180) / Math.PI)})`; }

  put(name, attributes, text) {
    const opacity = this.globalAlpha === 1 ? "" : this.globalAlpha;
    const common = { transform: this.transform, "clip-path": this.clipPath, opacity };
    this.root.append(element(name, { ...attributes, ...common }, text));
  }

  get filled() { return { fill: this.fillStyle }; }
  get stroked() { return { fill: "none", stroke: this.strokeStyle, "stroke-width": this.lineWidth }; }

  beginPath() { this.d = ""; }
  moveTo(x, y) { this.d += `M${rounded(x)} ${rounded(y)}`; }
  lineTo(x, y) { this.d += `${this.d ? "L" : "M"}${rounded(x)} ${rounded(y)}`; }
  closePath() { this.d += "Z"; }
  rect(x, y, width, height) { this.d += `M${rounded(x)} ${rounded(y)}h${rounded(width)}v${rounded(height)}h${rounded(-width)}Z`; }

  /** A whole circle: the maps draw no other arc. */
  arc(x, y, radius) {
    const [r, across] = [rounded(radius), rounded(2 * radius)];
    this.d += `M${rounded(x + radius)} ${rounded(y)}a${r} ${r} 0 1 0 -${across} 0a${r} ${r} 0 1 0 ${across} 0Z`;
  }

  fill() { this.put("path", { d: this.d, ...this.filled }); }
  stroke() { this.put("path", { d: this.d, ...this.stroked }); }

  clip() {
    const id = `clip-${++this.numClips}`;
    const path = element("clipPath", { id });
    path.append(element("path", { d: this.d }));
    this.root.append(path);
    this.clipPath = `url(#${id})`;
  }

  box(x, y, width, height) { return { x: rounded(x), y: rounded(y), width: rounded(width), height: rounded(height) }; }
  fillRect(...place) { this.put("rect", { ...this.box(...place), ...this.filled }); }
  strokeRect(...place) { this.put("rect", { ...this.box(...place), ...this.stroked }); }

  measureText(text) {
    this.ruler.font = this.font;
    return this.ruler.measureText(text);
  }

  letters(x, y, text, look) {
    const anchor = { left: "start", center: "middle", right: "end" }[this.textAlign];
    const [, size, family] = /^(\S+) (.*)$/.exec(this.font);
    const font = { "font-size": size, "font-family": family, "text-anchor": anchor };
    this.put("text", { x: rounded(x), y: rounded(y), ...font, ...look }, text);
  }

  fillText(text, x, y) { this.letters(x, y, text, this.filled); }
  strokeText(text, x, y) { this.letters(x, y, text, { ...this.stroked, "stroke-linejoin": "round" }); }

  /** A picture, or the part of it that the first four numbers name, as pixels that the file holds. */
  drawImage(picture, ...numbers) {
    const [x, y, width, height] = numbers.slice(-4);
    const pixels = Object.assign(document.createElement("canvas"), {
      width: Math.round(FINER * width), height: Math.round(FINER * height),
    });
    const context = pixels.getContext("2d");
    context.imageSmoothingEnabled = this.imageSmoothingEnabled ?? true;
    const part = numbers.length > 4 ? numbers.slice(0, 4) : [0, 0, picture.width, picture.height];
    context.drawImage(picture, ...part, 0, 0, pixels.width, pixels.height);
    this.put("image", { ...this.box(x, y, width, height), href: pixels.toDataURL() });
  }
}

/** A map as an SVG element. */
function drawnAgain(part) {
  const { width, height, paint } = part.figure();
  const root = element("svg", { width: rounded(width), height: rounded(height), viewBox: `0 0 ${rounded(width)} ${rounded(height)}` });
  paint(new SvgContext(root));
  return root;
}

/** The line charts of a figure as they lie on the page, each with its looks in itself. */
function copied(charts) {
  const boxes = charts.map((chart) => chart.getBoundingClientRect());
  const [left, top] = ["left", "top"].map((side) => Math.min(...boxes.map((box) => box[side])));
  const [right, bottom] = ["right", "bottom"].map((side) => Math.max(...boxes.map((box) => box[side])));
  const root = element("svg", { width: rounded(right - left), height: rounded(bottom - top) });
  charts.forEach((chart, i) => {
    const copy = chart.cloneNode(true);
    const copies = [copy, ...copy.querySelectorAll("*")];
    [chart, ...chart.querySelectorAll("*")].forEach((from, k) => {
      const style = getComputedStyle(from);
      for (const name of INLINED) copies[k].setAttribute(name, style.getPropertyValue(name));
      copies[k].removeAttribute("class");
    });
    const { width, height } = boxes[i];
    for (const [name, value] of Object.entries({ x: boxes[i].left - left, y: boxes[i].top - top, width, height })) {
      copy.setAttribute(name, rounded(value));
    }
    root.append(copy);
  });
  return root;
}

/** The text of a figure's file, in light, on white, with its caption as description. */
function svgOf(figure) {
  const back = turnLight();
  try {
    const charts = [...figure.querySelectorAll("svg.chart")];
    const root = charts.length ? copied(charts) : drawnAgain(figure.classList.contains("atlas") ? parts.atlas : parts.sky);
    root.prepend(
      element("title", {}, document.title),
      element("desc", {}, figure.querySelector("figcaption").textContent),
      element("rect", { width: "100%", height: "100%", fill: theme("paper") }),
    );
    return new XMLSerializer().serializeToString(root);
  } finally {
    back();
  }
}

function saveFigure(figure, name) {
  const address = URL.createObjectURL(new Blob([svgOf(figure)], { type: "image/svg+xml" }));
  const link = Object.assign(document.createElement("a"), { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** A button below each figure. */
function makeSaveButtons() {
  [...document.querySelectorAll("main figure:not(.table)")].forEach((figure, i) => {
    const button = Object.assign(document.createElement("button"), {
      type: "button", className: "save", textContent: "Save as SVG",
    });
    button.setAttribute("aria-label", `Save figure ${i + 1} as SVG`);
    const name = `figure-${i + 1}-${figure.closest("section").id}.svg`;
    button.addEventListener("click", () => saveFigure(figure, name));
    figure.append(button);
  });
}
