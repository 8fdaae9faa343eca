"""Evidently's report as a page that only shows: no inline script, no request outside, hostile text as text.

Evidently 0.7.23 writes its data as JSON into a <script> element without escaping `</script>`: a category's value can
end the element and run as code (seen). Here the data is inert and escaped, the scripts are two files of our own beside
the reports, and the page's policy allows nothing else. That also leaves 3.7 MB of library out of every report.
"""

import json
from pathlib import Path
from typing import Any

import evidently
from evidently.core.report import Snapshot
from evidently.legacy.model.dashboard import DashboardInfo
from evidently.legacy.model.widget import AdditionalGraphInfo, BaseWidgetInfo
from evidently.legacy.renderers.html_widgets import group_widget
from evidently.legacy.utils import NumpyEncoder
from s3fs import S3FileSystem

from perennial.lakehouse.lake import Lake

STATIC = f"reports/_static/evidently-{evidently.__version__}"
_LIBRARY = Path(evidently.__path__[0]) / "nbextension" / "static"
_START = """\
const report = JSON.parse(document.getElementById("report").textContent);
const restore = (part) => {
  for (const [key, value] of Object.entries(part ?? {})) {
    if (key === "template" && Number.isInteger(value)) part[key] = report.templates[value];
    else if (typeof value === "object") restore(value);
  }
};
restore(report.dashboard);
restore(report.graphs);
window.drawDashboard(report.dashboard, new Map(Object.entries(report.graphs)), "root");
"""
_FONT = """\
@font-face { font-family: "Material Icons"; src: url("material-ui-icons.woff2") format("woff2"); }
.center-align { text-align: center; }
.material-icons { font-family: "Material Icons"; font-size: 24px; line-height: 1; display: inline-block;
  white-space: nowrap; word-wrap: normal; -webkit-font-smoothing: antialiased; }
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="UTF-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'self'; \
style-src 'self' 'unsafe-inline'; font-src 'self' data:; img-src data: blob:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1.0">
<title>Monitoring report</title>
<link rel="stylesheet" href="{static}/report.css">
</head>
<body>
<div id="root"></div>
<script type="application/json" id="report">{data}</script>
<script src="{static}/start-globals.js"></script>
<script src="{static}/evidently.js"></script>
<script src="{static}/report.js"></script>
</body>
</html>
"""


def render_page(snapshot: Snapshot) -> str:
    """The report's page; it expects `save_static` to have put the library two folders above it."""
    widgets: list[BaseWidgetInfo] = [group_widget(title="", widgets=snapshot._widgets), *snapshot._tests_widgets]
    graphs: dict[str, Any] = {}
    for widget in widgets:
        for graph in widget.get_additional_graphs():
            graphs[str(graph.id)] = graph.params if isinstance(graph, AdditionalGraphInfo) else graph.dict()
    dashboard = DashboardInfo(name="Report", widgets=widgets).dict()
    for described in dashboard["widgets"]:
        described.pop("additionalGraphs", None)
    content = json.loads(json.dumps({"dashboard": dashboard, "graphs": graphs}, cls=NumpyEncoder))
    data = json.dumps({**content, "templates": _share_templates(content)}, separators=(",", ":"))
    return _PAGE.format(static="../../" + STATIC.removeprefix("reports/"), data=_inert(data))


def save_static(lake: Lake, files: S3FileSystem) -> None:
    """Put Evidently's library and our starter beside the reports, once for each version of Evidently."""
    contents = {
        "evidently.js": (_LIBRARY / "index.js").read_bytes(),
        "material-ui-icons.woff2": (_LIBRARY / "material-ui-icons.woff2").read_bytes(),
        "report.css": _FONT.encode(),
        "start-globals.js": b"var global = globalThis;\n",
        "report.js": _START.encode(),
    }
    for name, content in contents.items():
        path = lake.uri(f"{STATIC}/{name}")
        if not files.exists(path) or files.size(path) != len(content):
            files.pipe_file(path, content)


def _inert(data: str) -> str:
    """JSON that cannot end the element it stands in, nor open a comment in it."""
    return data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _share_templates(content: Any) -> list[Any]:
    """Take plotly's theme, 7 kB in every figure, out of `content`: each figure keeps its position in the list."""
    templates: dict[str, int] = {}
    pending = [content]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            if isinstance(part.get("template"), dict):
                part["template"] = templates.setdefault(json.dumps(part["template"]), len(templates))
            pending += part.values()
        elif isinstance(part, list):
            pending += part
    return [json.loads(template) for template in templates]
