// WeChat's own pay sheet (JSAPI). Its answer is never proof: the server asks WeChat Pay.

interface Bridge {
  invoke(name: string, parameters: Record<string, string>, done: (answer: { err_msg: string }) => void): void;
}

declare global {
  interface Window {
    WeixinJSBridge?: Bridge;
  }
}

/** Wires the button carrying the server's parameters; says so where there is no bridge. */
export function offerWechatPay(): void {
  const button = document.querySelector<HTMLButtonElement>("button[data-jsapi]");
  if (!button) return;
  const words = document.getElementById("jsapi-words");
  const say = (text: string): void => {
    if (words) words.textContent = text;
  };
  button.addEventListener("click", () => {
    const bridge = window.WeixinJSBridge;
    if (!bridge) {
      say("当前不在微信中，无法直接唤起微信支付。请用下面的“微信扫码付款”。");
      return;
    }
    button.disabled = true;
    const parameters = JSON.parse(button.dataset["jsapi"] ?? "{}") as Record<string, string>;
    bridge.invoke("getBrandWCPayRequest", parameters, (answer) => {
      button.disabled = false;
      if (answer.err_msg === "get_brand_wcpay_request:ok") {
        say("微信已受理，正在向微信支付核实结果，请稍候。");
        location.reload();
      } else if (answer.err_msg === "get_brand_wcpay_request:cancel") {
        say("您没有付款。需要时可以再次点击按钮付款，不会重复扣款。");
      } else {
        say("微信没有完成付款，请再试一次，或改用其他方式。");
      }
    });
  });
}
