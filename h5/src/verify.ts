// A receipt's QR code carries number and code behind "#", where no log of any server sees them.

/**
 * Fills them into the form and sends it; without JavaScript they are typed from the paper.
 *
 * The address forgets them first, also an older receipt's that still has them in the query: it
 * may be copied, kept in the history, or named to the next page.
 */
export function checkScannedReceipt(): void {
  const form = document.querySelector<HTMLFormElement>("form[data-verify]");
  if (!form) return;
  const scanned = new URLSearchParams(location.hash.slice(1));
  if (location.hash || location.search) history.replaceState(null, "", location.pathname);
  for (const name of ["no", "code"]) {
    const field = form.elements.namedItem(name);
    const value = scanned.get(name);
    if (!(field instanceof HTMLInputElement) || !value) return;
    field.value = value.slice(0, field.maxLength);
  }
  form.submit();
}
