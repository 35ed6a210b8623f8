/** What the server tells the page in its head, `<meta name="mini-chat" content="{…}">`. */

export interface Config {
  /** Of the API, with the prefix. */
  basePath: string;
  auth: "dev" | "jwt";
  /** No connection of the API stays silent for longer. */
  maxSilenceSecs: number;
}

const DEFAULTS: Config = { basePath: "/mini-chat/v1", auth: "dev", maxSilenceSecs: 20 };

export function readConfig(): Config {
  const given = document.querySelector<HTMLMetaElement>('meta[name="mini-chat"]')?.content ?? "{}";
  return { ...DEFAULTS, ...(JSON.parse(given) as Partial<Config>) };
}
