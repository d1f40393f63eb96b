// Counts down to deadlines the server already wrote out in words.

/**
 * Every [data-seconds-left] shows mm:ss; at zero a live page asks the server what is true.
 *
 * Only a page that saw the seconds run out does: one that came with none left has just asked.
 */
export function followDeadlines(): void {
  for (const place of document.querySelectorAll<HTMLElement>("[data-seconds-left]")) {
    const seconds = Number(place.dataset["secondsLeft"]);
    follow(place, performance.now() + seconds * 1000, seconds > 0);
  }
}

function follow(place: HTMLElement, end: number, wasRunning: boolean): void {
  const left = Math.max(0, Math.ceil((end - performance.now()) / 1000));
  place.textContent = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
  if (left > 0) {
    window.setTimeout(() => follow(place, end, wasRunning), 1000 - (performance.now() % 1000) + 5);
  } else if (wasRunning && place.dataset["atEnd"] === "reload") {
    // The worker closes at the channel first; give it a moment, then look once.
    window.setTimeout(() => location.reload(), 5000);
  }
}
