"""The Overview dashboard: how fast, how many, how they ended, what is short, what was promised."""

from grafana_foundation_sdk.builders import dashboard, table
from grafana_foundation_sdk.models import units

from deploy.grafana.panels import (
    FULL,
    HALF,
    JOB,
    QUARTER,
    REASON_COLORS,
    SERVED_MODEL,
    STATUS_COLORS,
    Panel,
    Row,
    bars,
    board,
    chosen,
    coloured,
    figure,
    graph,
    limited,
    now,
    painted,
    rows_of,
    series,
    stacked,
    thresholds,
)
from deploy.grafana.promql import (
    INFERENCE,
    LOST,
    REQUESTED,
    SERVED,
    SERVER,
    mean,
    quantile,
    rate,
    ratio,
    total,
)
from nyquist.server.telemetry import names as server

REQUESTS = server.REQUEST_DURATION
BURN = "model:nyquist_budget_burn"
INFERS = f'{INFERENCE}, grpc_method=~"ModelInfer|ModelStreamInfer"'


def glance() -> list[Panel]:
    """Return the figures that answer: is it fast, is it used, is it well."""
    lost = f"sum(rate({server.REJECTED}{{{REQUESTED}, {LOST}}}[$__rate_interval]))"
    answered = f"sum(rate({REQUESTS}_count{{{REQUESTED}}}[$__rate_interval]))"
    return [
        figure(
            "Latency p50",
            units.Seconds,
            "Half of the requests to the chosen models were answered faster.",
            series(quantile(0.5, REQUESTS, where=REQUESTED), "p50"),
        ),
        figure(
            "Latency p99",
            units.Seconds,
            "99 of 100 requests to the chosen models were answered faster.",
            series(quantile(0.99, REQUESTS, where=REQUESTED), "p99"),
        ),
        figure(
            "Request rate",
            units.RequestsPerSecond,
            "Requests to the chosen models that were answered.",
            series(answered, "answered"),
        ),
        figure(
            "Requests lost",
            units.PercentUnit,
            "Share of requests that the server owed an answer and gave none: a full queue, a "
            "timeout or deadline, a failure, a stop.",
            series(f"({lost} or vector(0)) / ({answered} + {lost}) >= 0", "lost"),
            thresholds("green", (0.001, "orange"), (0.01, "red")),
        ),
        figure(
            "Models ready",
            units.PercentUnit,
            "Share of the chosen models' versions that take requests.",
            series(f"avg({server.MODEL_READY}{{{SERVED}}})", "ready"),
            thresholds("red", (1, "green")),
        ),
        figure(
            "Alerts firing",
            units.Number,
            "Of all servers and companions. What each means is in docs/runbooks.",
            series(
                'count(ALERTS{alertname=~"Nyquist.+", alertstate="firing"}) or vector(0)', "firing"
            ),
            thresholds("green", (1, "red")),
        ),
    ]


def latency() -> list[Panel]:
    """Return how long callers wait, by model and by method."""
    return [
        graph(
            "Latency by model",
            units.Seconds,
            "From the bytes of a request to those of its answer, network left out. Quantiles are "
            "interpolated within the histogram's buckets.",
            *(
                series(
                    quantile(percent / 100, REQUESTS, "model", REQUESTED),
                    f"{{{{model}}}} p{percent}",
                )
                for percent in (50, 95, 99)
            ),
        ).span(HALF),
        graph(
            "Latency p99 by gRPC method",
            units.Seconds,
            "From the start of a call to its end, for every method of the inference service; a "
            "stream lasts as long as its caller keeps it open.",
            series(
                quantile(0.99, server.CALL_DURATION, "grpc_method", INFERENCE),
                "{{grpc_method}}",
            ),
        ).span(HALF),
    ]


def traffic() -> list[Panel]:
    """Return how many calls there are, and how they ended."""
    handled = server.CALLS_HANDLED
    failed = f'{INFERENCE}, grpc_code!="OK"'
    return [
        graph(
            "Request rate by model",
            units.RequestsPerSecond,
            "Requests answered, unary and in streams. Those of a companion, probes and mirrored "
            "pictures, are left out here, and wherever requests are counted.",
            series(rate(f"{REQUESTS}_count", "model", REQUESTED), "{{model}}"),
        ),
        graph(
            "Calls by method",
            units.RequestsPerSecond,
            "Calls of the inference service that began.",
            series(
                f"{rate(server.CALLS_STARTED, 'grpc_method', INFERENCE)} > 0",
                "{{grpc_method}}",
            ),
        ),
        graph(
            "Messages of inference calls",
            units.OpsPerSecond,
            "Requests and answers of the calls that infer: a stream carries many in one call.",
            *(
                series(
                    rate(messages, "grpc_method", INFERS),
                    f"{{{{grpc_method}}}} {way}",
                )
                for way, messages in (
                    ("received", server.MESSAGES_RECEIVED),
                    ("sent", server.MESSAGES_SENT),
                )
            ),
        ),
        painted(
            stacked(
                graph(
                    "Calls by status code",
                    units.RequestsPerSecond,
                    "Every method of the inference service, for all models: gRPC does not know "
                    "which model a call is for.",
                    series(f"{rate(handled, 'grpc_code', INFERENCE)} > 0", "{{grpc_code}}"),
                )
            ),
            STATUS_COLORS,
        ),
        graph(
            "Calls that did not end OK",
            units.PercentUnit,
            "Share of the calls by method, the caller's mistakes among them. A gap is a time "
            "without calls.",
            series(
                ratio(
                    rate(handled, "grpc_method", failed),
                    rate(handled, "grpc_method", INFERENCE),
                    "grpc_method",
                ),
                "{{grpc_method}}",
            ),
        ),
        painted(
            stacked(
                graph(
                    "Rejected by reason",
                    units.RequestsPerSecond,
                    "Requests to the chosen models that got no answer.",
                    series(rate(server.REJECTED, "reason", REQUESTED), "{{reason}}"),
                )
            ),
            REASON_COLORS,
        ),
    ]


def stages() -> list[Panel]:
    """Return where the time goes; the Model dashboard has it for one model."""
    return [
        stacked(
            graph(
                "Mean time by stage",
                units.Seconds,
                "decode -> queue -> batch -> infer -> encode, over the chosen models. Batch and "
                "infer are timed once a batch, the others once a request.",
                series(mean(server.STAGE_DURATION, "stage"), "{{stage}}"),
            )
        ),
        graph(
            "Mean batch size",
            units.Number,
            "Pictures that ran together, without the rows of padding.",
            series(mean(server.BATCH_SIZE, "model"), "{{model}}"),
        ),
        graph(
            "Queue depth and requests in flight",
            units.Number,
            "Queue depth: requests that wait for the model. In flight: taken in and not answered, "
            "the waiting ones among them.",
            series(total(server.QUEUE_DEPTH, "model"), "{{model}} queued"),
            series(total(server.INFLIGHT, "model"), "{{model}} in flight"),
        ),
    ]


def saturation() -> list[Panel]:
    """Return what is nearly used up."""
    return [
        limited(
            graph(
                "Queue, share of its limit",
                units.PercentUnit,
                "Requests that wait for the model, of those that may. At 100 % requests are "
                "refused.",
                series(
                    f"max by (model) ({server.QUEUE_DEPTH}{{{SERVED}}} / "
                    f"{server.QUEUE_LIMIT}{{{SERVED}}})",
                    "{{model}}",
                ),
            ),
            (0.8, "red"),
        ).max(1),
        limited(
            graph(
                "Pictures held, share of their limit",
                units.PercentUnit,
                "Bytes of the pictures that all models hold, waiting or running, of "
                "--max-queue-bytes.",
                series(
                    f"{server.QUEUE_BYTES}{{{SERVER}}} / {server.QUEUE_BYTES_LIMIT}{{{SERVER}}}",
                    "{{instance}}",
                ),
            ),
            (0.8, "red"),
        ).max(1),
        graph(
            "Open calls",
            units.Number,
            "Calls of every service that began and have not ended.",
            series(
                f"sum by (instance) ({server.CALLS_STARTED}{{{SERVER}}}) - "
                f"sum by (instance) ({server.CALLS_HANDLED}{{{SERVER}}})",
                "{{instance}}",
            ),
        ),
        graph(
            "Processor cores in use",
            units.Number,
            "By server process; 1 is one core, busy all the time.",
            series(f"rate({server.PROCESS_CPU}{{{SERVER}}}[$__rate_interval])", "{{instance}}"),
        ).span(QUARTER),
        graph(
            "Resident memory",
            units.BytesIEC,
            "By server process; memory on a GPU is not in it.",
            series(f"{server.PROCESS_MEMORY}{{{SERVER}}}", "{{instance}}"),
        ).span(QUARTER),
        graph(
            "GPU utilisation",
            units.PercentUnit,
            "Share of the time in which a kernel ran. Nothing on a machine without a GPU.",
            series(f"{server.GPU_UTILIZATION}{{{SERVER}}}", "{{gpu_uuid}}"),
        ).span(QUARTER),
        limited(
            graph(
                "GPU memory in use",
                units.PercentUnit,
                "Of the whole GPU, by all its processes. Nothing on a machine without a GPU.",
                series(
                    f"{server.GPU_MEMORY_USED}{{{SERVER}}} / {server.GPU_MEMORY_TOTAL}{{{SERVER}}}",
                    "{{gpu_uuid}}",
                ),
            ),
            (0.95, "red"),
        ).span(QUARTER),
    ]


def objectives() -> list[Panel]:
    """Return what was promised, and how much of what may go wrong is left."""
    availability = f'{SERVED}, objective="availability"'
    left = f"min by (model, objective) (1 - {BURN}:rate30d{{{SERVED}}})"
    return [
        bars(
            "Error budget left",
            units.PercentUnit,
            "Of 30 days: 99.9 % of requests answered, 99 % of answers within 250 ms, or what the "
            "rules give the model. At 0 % as much has gone wrong as 30 days allow.",
            now(left, "{{model}} {{objective}}"),
            thresholds("red", (0, "orange"), (0.5, "green")),
        ),
        limited(
            graph(
                "Budget burn over one hour, availability",
                units.Number,
                "How many times as fast as 30 days allow: at 1 the budget lasts 30 days, at 14.4 "
                "it lasts 50 hours and NyquistBudgetBurn fires.",
                series(f"max by (model) ({BURN}:rate1h{{{availability}}})", "{{model}}"),
            ),
            (14.4, "red"),
        ),
        limited(
            graph(
                "Budget burn over one hour, latency",
                units.Number,
                "The same for answers that took longer than the model's objective.",
                series(
                    f'max by (model) ({BURN}:rate1h{{{SERVED}, objective="latency"}})', "{{model}}"
                ),
            ),
            (14.4, "red"),
        ),
        rows_of(
            "Alerts",
            units.String,
            "Pending or firing, of all servers and companions. Nothing here is good news.",
            now('ALERTS{alertname=~"Nyquist.+"}'),
            {
                "alertname": "alert",
                "alertstate": "state",
                "severity": "severity",
                "model": "model",
                "objective": "objective",
                "window": "window",
                "instance": "instance",
            },
        ).span(FULL),
    ]


def runtime() -> list[Panel]:
    """Return what is loaded and what runs it."""
    return [models_table().span(FULL)]


def models_table() -> table.Panel:
    """Return the table of the loaded models: the labels of their info, and their fallbacks."""
    keys = "job, instance, model, version"
    query = (
        f"{server.MODEL_INFO}{{{SERVED}}} * on ({keys}) group_left () "
        f"{server.PROVIDER_FALLBACK}{{{SERVED}}}"
    )
    columns = ("model", "version", "provider", "precision", "Value", "opset", "instance", "sha256")
    panel = rows_of(
        "Models and execution providers",
        units.Number,
        "What is loaded and what runs it. Fallbacks: sessions that asked for CUDA and got the CPU; "
        "red, because they answer slowly and say nothing.",
        now(query),
        {column: "fallbacks" if column == "Value" else column for column in columns},
    )
    return coloured(panel, "fallbacks", thresholds("green", (1, "red")))


def overview() -> dashboard.Dashboard:
    """Return the dashboard, with data source, server and models as its variables."""
    return board(
        "Nyquist overview",
        "nyquist-overview",
        "Is it fast, is it used, is it well, what is short, and what was promised.",
        [chosen(*JOB), chosen(*SERVED_MODEL)],
        [
            Row("At a glance", glance()),
            Row("Latency", latency()),
            Row("Traffic and errors", traffic()),
            Row("Where the time goes", stages()),
            Row("Saturation", saturation()),
            Row("Objectives and error budget", objectives()),
            Row("What runs", runtime()),
        ],
    )
