// The grids of one latent plane at all resolutions. Index of cell (x, y): x * side + y.

const COARSEST = 32;
const FEWEST = 5; // stars in the cell of a typical star

class Plane {
  /** Unpack counts and layers, and sum the counts to coarser and coarser cells. */
  static async load(spec) {
    const plane = new Plane();
    const [counts, ...layers] = await Promise.all([spec.counts, ...spec.layers].map(unpack));
    plane.spec = spec;
    plane.side = spec.counts.shape[0];
    plane.spans = new Map();
    plane.typicals = new Map();
    plane.counts = new Map([[plane.side, Float64Array.from(counts)]]);
    for (let side = plane.side; side % 2 === 0 && side > COARSEST; side /= 2) {
      plane.counts.set(side / 2, sumFours(plane.counts.get(side), side));
    }
    plane.layers = spec.layers.map((layer, i) => new Map([[layer.shape[0], layers[i]]]));
    return plane;
  }

  /** The finest resolution with cells of several stars, at least `pixels` wide where the plane is `across` pixels. */
  sideFor(across, pixels) {
    const sides = [...this.counts.keys()];
    return sides.find((side) => across / side >= pixels && this.typical(side) >= FEWEST) || sides[sides.length - 1];
  }

  /** How many stars the cell of the median star has. */
  typical(side) {
    if (!this.typicals.has(side)) {
      const occupied = this.counts.get(side).filter((num) => num).sort();
      const half = occupied.reduce((total, num) => total + num, 0) / 2;
      let [below, k] = [0, -1];
      while (below < half) below += occupied[++k];
      this.typicals.set(side, occupied[k] || 0);
    }
    return this.typicals.get(side);
  }

  /** Indices of the cell with stars that is nearest to (i, j), itself if it has any; null where none has. */
  nearestOccupied(i, j, side) {
    const counts = this.counts.get(side);
    if (counts[i * side + j]) return [i, j];
    let [best, found] = [Infinity, null];
    for (let x = 0; x < side; x++) {
      for (let y = 0; y < side; y++) {
        const away = (x - i) ** 2 + (y - j) ** 2;
        if (away < best && counts[x * side + y]) [best, found] = [away, [x, y]];
      }
    }
    return found;
  }

  /** Values of a layer at a resolution: means over coarser cells; a finer cell with stars has its parent's. */
  layer(index, side) {
    const known = this.layers[index];
    if (!known.has(side)) {
      const finest = this.spec.layers[index].shape[0];
      if (side > finest) known.set(side, this.refine(known.get(finest), finest, side));
      else {
        const twice = this.layer(index, side * 2);
        known.set(side, this.coarsen(twice, side * 2, this.spec.layers[index].scale));
      }
    }
    return known.get(side);
  }

  refine(values, coarse, side) {
    const counts = this.counts.get(side);
    const times = side / coarse;
    const fine = new Float32Array(side * side).fill(NaN);
    for (let x = 0; x < side; x++) {
      const row = Math.floor(x / times) * coarse;
      for (let y = 0; y < side; y++) {
        if (counts[x * side + y]) fine[x * side + y] = values[row + Math.floor(y / times)];
      }
    }
    return fine;
  }

  coarsen(values, side, scale) {
    const counts = this.counts.get(side);
    const half = side / 2;
    const coarse = new Float32Array(half * half).fill(NaN);
    for (let x = 0; x < half; x++) {
      for (let y = 0; y < half; y++) {
        let [total, weight, largest, of] = [0, 0, 0, NaN];
        for (const cell of [2 * x * side + 2 * y, 2 * x * side + 2 * y + 1, (2 * x + 1) * side + 2 * y, (2 * x + 1) * side + 2 * y + 1]) {
          if (values[cell] !== values[cell]) continue;
          const stars = counts[cell] || 1e-9;
          total += stars * values[cell];
          weight += stars;
          if (stars > largest) [largest, of] = [stars, values[cell]];
        }
        if (weight) coarse[x * half + y] = scale === "category" ? of : total / weight;
      }
    }
    return coarse;
  }

  /** The colouring of the density (index -1), of all cells of a resolution, or of a layer, of nearly all stars. */
  colouring(index, side, mapName) {
    if (index < 0) {
      const area = this.cellArea(side);
      let [low, high] = [Infinity, 0];
      for (const num of this.counts.get(side)) {
        if (num && num < low) low = num;
        if (num > high) high = num;
      }
      return { ...makeColouring(high ? [low / area, high / area] : null, "log", mapName), area };
    }
    const { shape, scale } = this.spec.layers[index];
    if (!this.spans.has(index)) {
      this.spans.set(index, ends(this.layers[index].get(shape[0]), scale, 0.004, this.counts.get(shape[0])));
    }
    return makeColouring(this.spans.get(index), scale, mapName);
  }

  cellArea(side) {
    const [[x0, x1], [y0, y1]] = this.spec.window;
    return ((x1 - x0) * (y1 - y0)) / (side * side);
  }

  /** The whole plane as a picture of side x side pixels, the second dimension upwards. */
  paint(index, side, colouring) {
    const picture = new OffscreenCanvas(side, side);
    const context = picture.getContext("2d");
    const image = context.createImageData(side, side);
    const pixels = new Uint32Array(image.data.buffer);
    const values = index < 0 ? this.counts.get(side) : this.layer(index, side);
    for (let x = 0; x < side; x++) {
      for (let y = 0; y < side; y++) {
        const value = values[x * side + y];
        if (index < 0 ? value : value === value) {
          pixels[(side - 1 - y) * side + x] = colourOf(colouring, index < 0 ? value / colouring.area : value);
        }
      }
    }
    context.putImageData(image, 0, 0);
    return picture;
  }
}

function sumFours(counts, side) {
  const half = side / 2;
  const coarse = new Float64Array(half * half);
  for (let x = 0; x < side; x++) {
    const row = (x >> 1) * half;
    for (let y = 0; y < side; y++) coarse[row + (y >> 1)] += counts[x * side + y];
  }
  return coarse;
}
