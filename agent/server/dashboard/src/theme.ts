/** Dark or light: as the system has it, until somebody says otherwise. */

export type Theme = "system" | "light" | "dark";

const KEY = "edge-agent-theme";
const listeners = new Set<() => void>();
const system = matchMedia("(prefers-color-scheme: dark)");

export function theme(): Theme {
  const kept = localStorage.getItem(KEY);
  return kept === "light" || kept === "dark" ? kept : "system";
}

export function setTheme(wanted: Theme): void {
  if (wanted === "system") localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, wanted);
  apply();
}

export function isDark(): boolean {
  return theme() === "system" ? system.matches : theme() === "dark";
}

/** Called when the colours have changed, until the returned function is called. */
export function onTheme(call: () => void): () => void {
  listeners.add(call);
  return () => listeners.delete(call);
}

function apply(): void {
  document.documentElement.dataset["theme"] = isDark() ? "dark" : "light";
  for (const call of listeners) call();
}

system.addEventListener("change", apply);
apply();
