// The single stars that the page holds: which are in a cell, and their list beside the map.

const LISTED = 100;
const NEIGHBOURS = 8; // listed at least, those nearest to the cell where it has fewer

class Sample {
  static async load(entry) {
    const sample = new Sample();
    const { complete, ...arrays } = entry;
    const names = Object.keys(arrays);
    const values = await Promise.all(names.map((name) => unpack(arrays[name])));
    names.forEach((name, i) => { sample[name] = values[i]; });
    [sample.num, sample.numLatent] = entry.latent.shape;
    sample.numBands = entry.magnitude.shape[1];
    sample.isComplete = complete;
    return sample;
  }

  place(i, atlas) {
    return atlas.toUnits((k) => this.latent[i * this.numLatent + k]);
  }

  /** The number of a star by its id; -1 where it is not here. */
  indexOf(objid) {
    return this.objid.indexOf(objid);
  }

  latentOf(i) {
    return this.latent.subarray(i * this.numLatent, (i + 1) * this.numLatent);
  }

  /** The stars of a cell, nearest to its middle first, and the nearest others where they are few. */
  near(cell, atlas) {
    const [x, y] = [cell.x0 + cell.width / 2, cell.y0 + cell.width / 2];
    const found = [];
    for (let star = 0; star < this.num; star++) {
      const place = this.place(star, atlas);
      const away = Math.max(Math.abs(place.x - x), Math.abs(place.y - y));
      if (away < Infinity) found.push({ star, away, inside: away <= cell.width / 2 });
    }
    found.sort((one, two) => one.away - two.away);
    const own = found.filter((one) => one.inside).length;
    return { own, found: found.slice(0, Math.max(NEIGHBOURS, Math.min(own, LISTED))) };
  }

  /** What a list of a cell's `num` stars holds, in words. */
  title(num, { own, found }) {
    const stars = num === 1 ? "1 star" : `${whole(num)} stars`;
    if (!num) return `No star in the cell; the nearest ${this.isComplete ? "follow" : "of the page’s sample"}`;
    const of = this.isComplete ? "" : `, ${whole(own)} of the page’s sample`;
    const rest = own > found.length ? `; ${found.length} are listed` : own < found.length ? "; the nearest others follow" : "";
    return `${stars} in the cell${of}${rest}`;
  }

  /** Fill the list; `chosen` is the number of a star that was looked for. */
  list(found, chosen) {
    const titles = ["star", "error [mag]", ...(this.score ? ["score"] : [])];
    byId("atlas-stars-head").replaceChildren(...titles.map((text, k) => {
      const head = document.createElement("th");
      head.scope = "col";
      head.textContent = text;
      head.className = k ? "number" : "";
      return head;
    }));
    const order = [...found.filter((one) => one.star === chosen), ...found.filter((one) => one.star !== chosen)];
    byId("atlas-stars-rows").replaceChildren(...order.map((one) => this.row(one, one.star === chosen)));
  }

  row({ star, inside }, isChosen) {
    const row = document.createElement("tr");
    row.dataset.inside = inside;
    row.className = isChosen ? "found" : "";
    const fixed = (value, digits) => (Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : "–");
    const small = (text) => Object.assign(document.createElement("small"), { textContent: text });
    const bands = page.bands.map((band, k) => `${band} ${fixed(this.magnitude[star * this.numBands + k], 2)}`);
    row.insertCell().append(
      linkOrText(String(this.objid[star]), exploreLink(this.ra[star], this.dec[star])),
      small(`RA ${fixed(this.ra[star], 5)}° Dec ${fixed(this.dec[star], 5)}°${inside ? "" : ", beside the cell"}`),
      small(bands.join("  ")),
    );
    const number = (text) => Object.assign(row.insertCell(), { textContent: text, className: "number" });
    number(fixed(this.error[star], 3));
    if (this.score) number(say(this.score[star], 3));
    return row;
  }
}
