// Contents, light and dark, printing; then the maps.

const parts = { atlas: null, sky: null, table: null };

function makeContents() {
  byId("contents").replaceChildren(...[...document.querySelectorAll("main section")].map((section) => {
    const entry = document.createElement("li");
    const link = document.createElement("a");
    link.href = `#${section.id}`;
    link.textContent = section.dataset.short;
    entry.append(link);
    return entry;
  }));
}

function redraw() {
  themeValues.clear();
  if (parts.atlas) {
    parts.atlas.pictures.clear();
    parts.atlas.draw();
  }
  if (parts.sky) parts.sky.draw();
}

/** Paper is light: draw all in light; what comes back puts the theme that was chosen in its place again. */
function turnLight() {
  const root = document.documentElement;
  const before = root.dataset.theme;
  root.dataset.theme = "light";
  redraw();
  return () => {
    if (before) root.dataset.theme = before;
    else delete root.dataset.theme;
    redraw();
  };
}

function openTheme() {
  const root = document.documentElement;
  const button = byId("theme");
  const show = () => {
    button.textContent = isDark() ? "Light page" : "Dark page";
    redraw();
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    show();
  });
  systemTheme.addEventListener("change", show);
  let back = () => {};
  window.addEventListener("beforeprint", () => { back = turnLight(); });
  window.addEventListener("afterprint", () => back());
  show();
}

async function openMaps() {
  if (page.atlas.length) {
    parts.atlas = new Atlas(page.sample && (await Sample.load(page.sample)));
    await parts.atlas.open();
    for (const button of document.querySelectorAll("button.find")) {
      const mark = page.marks[Number(button.dataset.star)];
      if (mark) button.addEventListener("click", () => parts.atlas.goTo(mark.latent));
      else button.replaceWith(button.textContent);
    }
  }
  if (page.sky) {
    parts.sky = new Sky();
    await parts.sky.open();
  }
}

makeContents();
makeSaveButtons();
openTheme();
if (byId("anomalies")) parts.table = new AnomalyTable();
if (parts.table) parts.table.open();
openMaps().then(
  () => { document.documentElement.dataset.ready = "yes"; },
  (error) => {
    document.documentElement.dataset.ready = "no";
    byId("main").insertAdjacentText("afterbegin", `The maps cannot be drawn in this browser (${error.message}); text, curves and tables are complete.`);
  },
);
