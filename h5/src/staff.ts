// Staff pages: htmx and single-key shortcuts. An element with data-key="j" is clicked (links,
// buttons) or focused (fields) when that key is pressed outside a field; "n"/"p" walk the rows
// of .table[data-rows], Enter opens the row's first link.
import "htmx.org";

const FIELDS = "input, select, textarea, [contenteditable]";

document.addEventListener("keydown", (event) => {
  const target = event.target as Element;
  if (event.key === "Escape" && target.matches(FIELDS)) (target as HTMLElement).blur();
  if (event.ctrlKey || event.metaKey || event.altKey || target.matches(FIELDS)) return;
  const wanted = document.querySelector<HTMLElement>(`[data-key="${CSS.escape(event.key)}"]`);
  if (wanted) {
    event.preventDefault();
    if (wanted.matches(FIELDS)) wanted.focus();
    else wanted.click();
  } else if (event.key === "n" || event.key === "p") {
    walk(event.key === "n" ? 1 : -1);
  }
});

function walk(step: number): void {
  const links = [...document.querySelectorAll<HTMLElement>(".table[data-rows] tbody tr")]
    .map((row) => row.querySelector<HTMLElement>("a, button"))
    .filter((link): link is HTMLElement => link !== null);
  const present = links.findIndex((link) => link === document.activeElement);
  links[Math.min(links.length - 1, Math.max(0, present + step))]?.focus();
}
