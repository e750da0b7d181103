// The table of the strangest stars: sorting by a column's title, filtering by text and by a column's range.

const SHOWN = window.matchMedia("(max-width: 40rem)").matches ? 8 : 25;

class AnomalyTable {
  constructor() {
    this.table = byId("anomalies");
    this.body = this.table.tBodies[0];
    this.heads = [...this.table.tHead.rows[0].cells];
    this.rows = [...this.body.rows].map((row, index) => ({
      row, index, text: row.textContent.toLowerCase(), keys: [...row.cells].map((cell) => cell.dataset.key ?? ""),
    }));
    this.limit = SHOWN;
  }

  open() {
    this.heads.forEach((head, column) => {
      if (!head.dataset.kind) return;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => this.sort(column));
    });
    const numeric = this.heads.map((head, i) => [i, head]).filter(([, head]) => head.dataset.kind === "number");
    const colours = page.bands.slice(1).map((band, k) => [`colour ${k}`, `${page.bands[k]} − ${band}`]);
    fillSelect(byId("anomaly-column"), [...numeric.map(([i, head]) => [i, head.textContent]), ...colours]);
    byId("anomaly-filter").hidden = false;
    byId("anomaly-filter").addEventListener("submit", (event) => event.preventDefault());
    byId("anomaly-filter").addEventListener("reset", () => setTimeout(() => this.filter()));
    byId("anomaly-filter").addEventListener("input", () => this.filter());
    byId("anomaly-more").addEventListener("click", () => {
      const first = this.chosen[this.limit].row;
      this.limit = this.rows.length;
      this.show();
      first.tabIndex = -1;
      first.focus({ preventScroll: true });
    });
    this.filter();
  }

  sort(column) {
    const head = this.heads[column];
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const one of this.heads) one.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const order = head.dataset.kind === "number"
      ? (one, two) => Number(one) - Number(two)
      : (one, two) => one.localeCompare(two, "en", { numeric: true });
    this.rows.sort((one, two) => {
      const [a, b] = [one.keys[column], two.keys[column]];
      if (a === "" || b === "") return (a === "") - (b === ""); // what is not known stays last
      return descending ? order(b, a) : order(a, b);
    });
    this.body.append(...this.rows.map((one) => one.row));
    this.filter();
  }

  /** What a choice of the list means: a column's number, or the difference of two neighbouring bands; NaN: not known. */
  values(choice) {
    const number = (text) => (text === "" ? NaN : Number(text));
    if (!choice.startsWith("colour ")) return (keys) => number(keys[Number(choice)]);
    const first = this.heads.findIndex((head) => head.dataset.band !== undefined) + Number(choice.slice(7));
    return (keys) => number(keys[first]) - number(keys[first + 1]);
  }

  filter() {
    const text = byId("anomaly-text").value.trim().toLowerCase();
    const value = this.values(byId("anomaly-column").value);
    const bound = (id, none) => (byId(id).value === "" ? none : Number(byId(id).value));
    const [low, high] = [bound("anomaly-low", -Infinity), bound("anomaly-high", Infinity)];
    const bounded = low > -Infinity || high < Infinity;
    this.chosen = this.rows.filter(({ text: own, keys }) => {
      if (text && !own.includes(text)) return false;
      return !bounded || (value(keys) >= low && value(keys) <= high);
    });
    this.limit = SHOWN;
    this.show();
  }

  /** Make sure that a star's row is shown, and mark it. */
  reveal(index) {
    const one = this.rows.find((row) => row.index === index);
    if (!this.chosen.includes(one)) {
      byId("anomaly-filter").reset();
      this.filter();
    }
    this.limit = Math.max(this.limit, this.chosen.indexOf(one) + 1);
    this.show();
    for (const { row } of this.rows) row.classList.toggle("found", row === one.row);
  }

  /** The first stars as sorted and filtered, by their place in the page's list. */
  first(num) {
    return this.chosen.slice(0, num).map((one) => one.index);
  }

  show() {
    for (const { row } of this.rows) row.hidden = true;
    this.chosen.slice(0, this.limit).forEach(({ row }) => { row.hidden = false; });
    const [num, all] = [this.chosen.length, this.rows.length];
    byId("anomaly-count").textContent = num === all ? `${whole(all)} stars` : `${whole(num)} of ${whole(all)} stars`;
    const more = byId("anomaly-more");
    more.parentElement.hidden = num <= this.limit;
    more.textContent = `Show all ${whole(num)}`;
    if (parts.atlas) parts.atlas.draw();
  }
}
