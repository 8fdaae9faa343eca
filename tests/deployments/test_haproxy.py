"""HAProxy's configuration as Serve's own template writes it, and what we make of it."""

import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from deployments.haproxy import _NOT_FOUND, UnknownConfiguration, adapt

WRITTEN = """\
global
    stats socket /tmp/a.sock mode 666 level admin expose-fd listeners
defaults
    errorfile 502 /e
    errorfile 503 /e
frontend prometheus
    bind :9101
frontend http_frontend
    bind 127.0.0.1:8000
    acl is_trips path_beg /v2/models/trips/
    use_backend trips if is_trips
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path not found"
backend trips
    log global
    http-reuse always
    server SERVE_REPLICA::a 127.0.0.1:30001 check observe layer4 error-limit 3 on-error mark-down
    server fallback 127.0.0.1:8500 check backup
listen stats
  bind *:8404
"""


def test_peoples_paths_are_rewritten_before_any_is_matched() -> None:
    adapted = adapt(WRITTEN)
    assert adapted.index("set-path /v2%[path] if { path_beg /models/ }") < adapted.index("acl is_trips")
    assert "errorfile" not in adapted
    assert "Retry-After" in adapted
    assert "mode 600 level admin" in adapted
    assert "bind 127.0.0.1:9101" in adapted
    assert "bind 127.0.0.1:8404" in adapted
    assert adapt(adapted) == adapted


def test_a_replica_gets_so_many_at_a_time_and_what_is_too_much_is_refused_before_it() -> None:
    adapted = adapt(WRITTEN)
    assert "error-limit 3 on-error mark-down maxconn 128\n" in adapted
    assert "8500 check backup\n" in adapted
    assert adapted.count("maxconn") == 1
    assert "backend trips\n    log global\n    # Perennial" in adapted
    assert "hdr Retry-After 1" in adapted[adapted.index("backend trips") :]
    assert "if { avg_queue(trips) gt 256 }" in adapted


def test_a_proxy_that_knows_no_application_yet_asks_its_clients_to_come_back() -> None:
    assert "return status 404" in adapt(WRITTEN)
    started = adapt(WRITTEN.replace("    use_backend trips if is_trips\n", ""))
    assert "return status 503" in started
    assert "return status 404" not in started


def test_serves_template_still_has_every_place_that_we_change() -> None:
    for place in (
        "frontend http_frontend\n    bind ",
        "mode 666 level admin",
        "    bind :{{ config.metrics_port }}\n",
        "  bind *:{{ config.stats_port }}\n",
        "    errorfile 503 ",
        "backend {{ backend.name or 'unknown' }}\n    log global\n",
        "    server {{ server.name }} {{ server.host }}:{{ server.port }} check{% if ",
        "{{ backend.fallback_server.port }} check backup",
        "\n    use_backend {{ backend.name or 'unknown' }} if is_",
        f"backend default_backend\n    {_NOT_FOUND} ",
    ):
        assert place in HAPROXY_CONFIG_TEMPLATE


def test_a_configuration_without_the_frontend_starts_no_proxy() -> None:
    with pytest.raises(UnknownConfiguration, match="http_frontend"):
        adapt("global\n")
