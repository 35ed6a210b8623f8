import "./style.css";
import { render } from "preact";
import { readConfig } from "./config";
import { App } from "./state/app";
import { AppContext } from "./ui/context";
import { Page } from "./ui/Page";

const app = new App(readConfig());
app.start();
render(
  <AppContext.Provider value={app}>
    <Page />
  </AppContext.Provider>,
  document.body,
);
