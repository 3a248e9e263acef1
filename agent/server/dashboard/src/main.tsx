import { render } from "preact";
import { App } from "./app";
import "./theme";
import "uplot/dist/uPlot.min.css";
import "./styles/frame.css";
import "./styles/parts.css";
import "./styles/pages.css";
import "./styles/small.css";

const root = document.getElementById("app");
if (root) render(<App />, root);
