"""Write each alert that Alertmanager sends, one a line: stands for a pager until there is one.

a webhook's POST (prometheus.io/docs/alerting/latest/configuration/#webhook_config) -> its lines
"""

import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Receiver(BaseHTTPRequestHandler):
    """Takes webhooks on any path, which stands at the beginning of the line."""

    def do_POST(self) -> None:
        """Write the alerts of a message, and answer when they are written."""
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for alert in message["alerts"]:
            named, said = alert["labels"]["alertname"], alert["annotations"].get("summary", "")
            sys.stdout.write(f"{self.path[1:]}: {named} {alert['status']}: {said}\n")
        sys.stdout.flush()
        self.send_response(204)
        self.end_headers()

    def log_request(self, *_: object) -> None:
        """Leave standard error to what goes wrong."""


if __name__ == "__main__":
    # Nobody else does so for the first process of a container.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    HTTPServer(("", 9095), Receiver).serve_forever()
