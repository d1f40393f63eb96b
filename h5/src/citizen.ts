// What pages do better with JavaScript; every page works without it.
import "htmx.org";

import { followDeadlines } from "./countdown";
import { offerWechatPay } from "./jsapi";
import { checkScannedReceipt } from "./verify";

followDeadlines();
offerWechatPay();
checkScannedReceipt();

// iOS WeChat brings pages back from its memory: a pay page must show the present state.
window.addEventListener("pageshow", (event) => {
  if (event.persisted && document.body.hasAttribute("data-live")) location.reload();
});

// A form that was sent is not sent twice by an impatient finger.
document.addEventListener("submit", (event) => {
  const form = event.target as HTMLFormElement;
  if (form.dataset["sent"]) {
    event.preventDefault();
    return;
  }
  form.dataset["sent"] = "1";
  window.setTimeout(() => delete form.dataset["sent"], 8000);
});
