import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { App } from "../state/app";

export const AppContext = createContext<App | null>(null);

/** The app that the page was mounted with. */
export function useApp(): App {
  const app = useContext(AppContext);
  if (app === null) throw new Error("outside of the page");
  return app;
}
