for (const button of document.querySelectorAll("button[data-copy]")) {
  const value = document.getElementById(button.dataset.copy);
  const says = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    let done = true;
    try {
      await navigator.clipboard.writeText(value.textContent);
    } catch {
      getSelection().selectAllChildren(value);
      done = document.execCommand("copy");
    }
    button.textContent = done ? "Copied" : "Selected";
    document.getElementById("told").textContent = button.getAttribute("aria-label") + (done ? ": copied" : ": selected");
    setTimeout(() => { button.textContent = says; }, 2000);
  });
}
