"use strict";
// What all parts share: the page's data, arrays from text, numbers to text, colours.

const page = JSON.parse(document.getElementById("page-data").textContent);
const byId = (id) => document.getElementById(id);
const ARRAYS = {
  u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i2: Int16Array, i4: Int32Array, i8: BigInt64Array, f4: Float32Array,
};

/** The array that hpc_ae/report/pack.py packed: base64, deflate, bytes in planes, floats as codes. */
async function unpack(entry) {
  const binary = atob(byId(entry.id).textContent);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const kind = ARRAYS[entry.dtype];
  const width = kind.BYTES_PER_ELEMENT;
  const num = planes.length / width;
  const plain = new Uint8Array(planes.length);
  for (let k = 0; k < width; k++) for (let i = 0; i < num; i++) plain[i * width + k] = planes[k * num + i];
  return decode(new kind(plain.buffer), entry);
}

function decode(codes, entry) {
  if (entry.code) {
    const { kind, centre, width, low, step } = entry.code;
    const table = Float32Array.from({ length: 65536 }, (_, code) => (
      kind === "category" ? code - 1 : centre + width * Math.sinh(low + (code - 1) * step)
    ));
    table[0] = NaN;
    const values = new Float32Array(codes.length);
    for (let i = 0; i < codes.length; i++) values[i] = table[codes[i]];
    return values;
  }
  if (!entry.divide) return codes;
  const none = entry.dtype === "i2" ? -32768 : -2147483648;
  return Float64Array.from(codes, (code) => (code === none ? NaN : code / entry.divide));
}

const whole = (value) => Math.round(value).toLocaleString("en-US");

/** A number with four significant digits and a true minus sign. */
function say(value, digits = 4) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  let text;
  if (size && (size < 1e-3 || size >= 1e7)) text = value.toExponential(Math.max(0, digits - 2)).replace("e+", "e");
  else if (Number.isInteger(value)) text = value.toLocaleString("en-US");
  else text = value.toLocaleString("en-US", { maximumSignificantDigits: digits });
  return text.replace("-", "−");
}

const sayUnit = (value, unit) => say(value) + (unit && Number.isFinite(value) ? ` ${unit}` : "");

/** About `most` round values within [low, high]. */
function roundTicks(low, high, most) {
  const rough = (high - low) / most;
  if (!(rough > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) {
    ticks.push(Number((i * step).toPrecision(10)));
  }
  return ticks;
}

const systemTheme = window.matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : systemTheme.matches;
}

const themeValues = new Map(); // forgotten when the theme changes

/** A value of the style sheet's theme. */
function theme(name) {
  if (!themeValues.has(name)) {
    themeValues.set(name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
  }
  return themeValues.get(name);
}

/** 256 colours as pixels of an ImageData (alpha, blue, green, red); the end that is the page's own colour is cut off. */
function colourTable(name) {
  const digits = page.colours.maps[name];
  const table = new Uint32Array(256);
  const [from, to] = name === page.colours.diverging ? [0, 1] : isDark() ? [0.18, 1] : [0, 0.94];
  for (let i = 0; i < 256; i++) {
    const at = 6 * Math.round(255 * from + i * (to - from));
    const [red, green, blue] = [0, 2, 4].map((k) => parseInt(digits.substr(at + k, 2), 16));
    table[i] = (255 << 24) | (blue << 16) | (green << 8) | red;
  }
  return table;
}

function categoryTable() {
  return Uint32Array.from(page.colours.categories, (text) => {
    const [red, green, blue] = [1, 3, 5].map((k) => parseInt(text.substr(k, 2), 16));
    return (255 << 24) | (blue << 16) | (green << 8) | red;
  });
}

/** The values that a share `cut` of the whole weight lies below and above; null where nothing is known. */
function ends(values, scale, cut, weights) {
  const known = [];
  let whole = 0;
  for (let i = 0; i < values.length; i++) {
    if (Number.isFinite(values[i]) && (scale !== "log" || values[i] > 0)) {
      known.push(i);
      whole += weights ? weights[i] : 1;
    }
  }
  if (!known.length) return null;
  const order = Uint32Array.from(known).sort((one, two) => values[one] - values[two]);
  const first = (from, step) => {
    let seen = 0;
    for (let k = from; ; k += step) {
      seen += weights ? weights[order[k]] : 1;
      if (seen > cut * whole || k === order.length - 1 - from) return values[order[k]];
    }
  };
  return [first(0, 1), first(order.length - 1, -1)];
}

/** How values become colours: {scale, low, high, table}, from the ends of their range. */
function makeColouring(span, scale, mapName) {
  if (scale === "category") return { scale, low: 0, high: 0, table: categoryTable() };
  let [low, high] = span || [1, 2];
  if (scale === "diverging") [low, high] = [-Math.max(-low, high, 1e-9), Math.max(-low, high, 1e-9)];
  if (!(high > low)) high = scale === "log" ? low * 10 : low + 1;
  const map = scale === "diverging" ? page.colours.diverging : mapName;
  return { scale, low, high, table: colourTable(map) };
}

function colourOf(colouring, value) {
  const { scale, low, high, table } = colouring;
  if (scale === "category") return table[value % table.length];
  const share = scale === "log" ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
  return table[Math.max(0, Math.min(255, Math.floor(256 * share)))];
}

/** A canvas fitted to its element; returns its context in CSS pixels. */
function fit(canvas, height) {
  const width = canvas.clientWidth;
  const ratio = Math.max(window.devicePixelRatio || 1, window.matchMedia("print").matches ? 2 : 1);
  canvas.style.height = `${height}px`;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = lettering();
  return context;
}

/** The one font of all figures: that of captions and tables. */
const lettering = () => `13px ${theme("sans")}`;
const css = (pixel) => `rgb(${pixel & 255}, ${(pixel >> 8) & 255}, ${(pixel >> 16) & 255})`;

const SHOWN_CATEGORIES = 40;
const perLine = (width) => Math.max(1, Math.floor(width / 26));

/** The colour bar on a canvas, and the same in words for a screen reader. */
function drawBar(canvas, legend) {
  const { colouring, label, categories } = legend;
  const context = fit(canvas, barHeight(legend, canvas.clientWidth));
  paintBar(context, legend, canvas.clientWidth);
  const said = colouring.scale === "category"
    ? `Colours of ${label}: ${categories.slice(0, SHOWN_CATEGORIES).join(", ")}`
    : `Colour bar: ${label}, from ${say(colouring.low)} to ${say(colouring.high)}`;
  canvas.setAttribute("aria-label", said);
}

function barHeight({ colouring, categories }, across) {
  const lines = colouring.scale === "category" ? Math.ceil(Math.min(categories.length, SHOWN_CATEGORIES) / perLine(across - 2)) : 1;
  return 20 + 34 * Math.max(1, lines);
}

/** The colour bar with its numbers, `across` CSS pixels wide. */
function paintBar(context, { colouring, label, categories }, across) {
  const width = across - 2;
  context.fillStyle = theme("ink");
  context.fillText(label, 1, 12);
  if (colouring.scale === "category") return paintCategories(context, colouring, categories, width);
  for (let i = 0; i < width; i++) {
    context.fillStyle = css(colouring.table[Math.min(255, Math.floor((256 * i) / width))]);
    context.fillRect(1 + i, 19, 1.5, 12);
  }
  const ticks = barTicks(colouring, Math.floor(width / 60));
  for (const tick of ticks) {
    const share = colouring.scale === "log"
      ? Math.log(tick / colouring.low) / Math.log(colouring.high / colouring.low)
      : (tick - colouring.low) / (colouring.high - colouring.low);
    const text = say(tick, 3);
    const half = context.measureText(text).width / 2;
    const at = 1 + share * width;
    context.fillStyle = theme("quiet");
    context.fillRect(at - 0.5, 31, 1, 4);
    context.textAlign = "center";
    context.fillText(text, Math.max(half, Math.min(width + 2 - half, at)), 48);
  }
  context.textAlign = "left";
}

function barTicks({ scale, low, high }, most) {
  if (scale !== "log") return roundTicks(low, high, Math.max(2, Math.min(5, most)));
  const ticks = [];
  const decades = Math.log10(high / low);
  if (decades < 2) {
    const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
    for (let k = first; k <= last; k++) for (const factor of decades < 1.3 ? [1, 2, 5] : [1, 3]) ticks.push(factor * 10 ** k);
    const inside = ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
    return inside.length > 1 ? inside : [low, high];
  }
  const every = Math.max(1, Math.ceil(decades / Math.max(2, most)));
  const first = Math.ceil(Math.log10(low) - 1e-9);
  for (let k = first; 10 ** k <= high * 1.000001; k += every) ticks.push(10 ** k);
  return ticks.length > 1 ? ticks : [low, high];
}

function paintCategories(context, colouring, categories, width) {
  const num = perLine(width);
  categories.slice(0, SHOWN_CATEGORIES).forEach((value, i) => {
    const [x, y] = [1 + 26 * (i % num), 19 + 34 * Math.floor(i / num)];
    context.fillStyle = css(colouring.table[value % colouring.table.length]);
    context.fillRect(x, y, 22, 12);
    context.fillStyle = theme("quiet");
    context.fillText(String(value), x + 6, y + 29);
  });
}

/** Fill a select with [value, text] pairs. */
function fillSelect(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
}

/** The SkyServer page of a place; nothing where the place is not known. */
function exploreLink(ra, dec) {
  if (!Number.isFinite(ra) || !Number.isFinite(dec) || !/^https?:\/\//.test(page.explore)) return "";
  return page.explore.replace(/\{ra[^}]*\}/g, ra.toFixed(6)).replace(/\{dec[^}]*\}/g, dec.toFixed(6));
}

/** A link, or plain text without an address. */
function linkOrText(text, address) {
  if (!address) return document.createTextNode(text);
  const link = document.createElement("a");
  Object.assign(link, { href: address, target: "_blank", rel: "noopener noreferrer", textContent: text });
  return link;
}

/** Rows of a definition list. */
function describe(list, pairs) {
  list.replaceChildren(...pairs.map(([name, value]) => {
    const row = document.createElement("div");
    const [term, data] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, data.textContent] = [name, value];
    row.append(term, data);
    return row;
  }));
}
