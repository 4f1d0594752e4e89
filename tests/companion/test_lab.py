"""The shift lab over HTTP: what moves, what is asked, what is counted, and what is refused."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from nyquist.client.client import Client
from nyquist.companion.command_line import make_lab_parser
from nyquist.companion.measures.shifts import shift_circularly, shift_fractionally
from nyquist.companion.page.lab.animation import COLOURS
from nyquist.companion.page.lab.moves import read_moved
from nyquist.companion.page.lab.run import pareto
from nyquist.companion.page.lab.wishes import MAX_BODY_BYTES, MAX_REACH, Sent, Wish
from nyquist.models.samples import PHOTOGRAPHS
from nyquist.server.wire.framing import IMAGENET, ON_CANVAS, PictureInput
from nyquist.server.wire.pb.inference_pb2 import ModelStatisticsRequest
from nyquist.server.wire.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from nyquist.server.wire.pictures import read_picture
from tests.companion.lab_runs import TYPE, ask, body_of, of_kind, opened, run, sent
from tests.foreign import make_net, put_model
from tests.processes import ROOT, RunningServer, start_server

COAT = PHOTOGRAPHS.parent / "fashion" / "coat.png"
COFFEE = PHOTOGRAPHS / "coffee.png"
STRIDED, BLUR, EFFICIENT = "0/fashion_strided/1", "0/fashion_blur/1", "0/efficientnet_lite0/1"
CANVAS = PictureInput(1, 48, 48, "CHW", "FP32", ON_CANVAS)
CROPPED = PictureInput(3, 224, 224, "HWC", "UINT8", IMAGENET)


@pytest.fixture(scope="module")
def lab(server: RunningServer) -> Iterator[int]:
    with opened(server.target) as port:
        yield port


def wish(**values: Any) -> Wish:
    return Wish(models=("0/m/1",), pictures=(Sent(name="a", size=1),), **values)


def moved(file: Path, wanted: PictureInput, **values: Any) -> Any:
    return read_moved(file.read_bytes(), wanted, wish(**values), lambda: False)


@pytest.mark.parametrize("move", ["circular", "crop"])
@pytest.mark.parametrize(("path", "wanted"), [(COAT, CANVAS), (COFFEE, CROPPED)])
def test_a_picture_that_has_not_moved_is_what_the_model_reads(
    path: Path, wanted: PictureInput, move: str
) -> None:
    (still,) = moved(path, wanted, move=move, step=0.5).at(np.zeros((1, 2)))
    assert np.array_equal(still, read_picture(path.read_bytes(), wanted))


def test_whole_and_half_pixels_around_the_edge_are_the_moves_of_the_measures() -> None:
    coat = moved(COAT, CANVAS, move="circular", path="diagonal", step=0.5)
    places = np.array([[3.0, 3.0], [2.5, 2.5]])
    whole, half = coat.at(places)
    still = read_picture(COAT.read_bytes(), CANVAS)[None]
    assert np.array_equal(whole, shift_circularly(still, places[:1].astype(int), (2, 3))[0])
    assert np.allclose(half, shift_fractionally(still, places[1:], (2, 3))[0], atol=1e-6)


def test_a_crop_shows_what_lies_beside_it_and_nothing_that_comes_around() -> None:
    coffee = moved(COFFEE, CROPPED, move="crop", path="right", reach=8)
    still, right = coffee.at(np.array([[0, 0], [0, 8]]))
    assert np.array_equal(right[:, 8:], still[:, :-8])
    assert not np.array_equal(right[:, :8], still[:, -8:])


def test_what_has_nothing_around_it_is_read_closer_and_says_so() -> None:
    assert moved(COFFEE, CROPPED, move="crop", reach=16).view()["closer"] == 1
    assert moved(COFFEE, CROPPED, move="crop", reach=32).view()["closer"] == 1.125
    assert moved(COAT, CANVAS, move="crop", reach=32).view()["closer"] == 1


def test_half_pixels_of_a_crop_ring_at_its_edge_no_more_than_inside() -> None:
    ramp = replace(CANVAS, height=8, width=8)
    coat = moved(COAT, ramp, move="crop", path="right", reach=2, step=0.5)
    slope = np.broadcast_to(np.linspace(0, 1, 12, dtype=np.float32), (1, 12, 12))
    half = replace(coat, base=slope).at(np.array([[0.0, 1.5]]))[0, 0, 4]
    assert np.allclose(np.diff(half), 1 / 11, atol=0.03)


def test_an_input_of_open_size_takes_the_size_of_the_picture_within_a_bound() -> None:
    small = replace(CROPPED, height=32, width=32, most=(4096, 4096))
    assert moved(COFFEE, small).at(np.zeros((1, 2))).shape == (1, 256, 256, 3)


def test_models_are_listed_with_what_they_take(lab: int) -> None:
    listed = {one["id"]: one for one in json.loads(ask(lab, "/lab/models")[1])}
    assert listed[STRIDED]["size"] == [48, 48]
    assert (listed[EFFICIENT]["channels"], listed[EFFICIENT]["provider"]) == (3, "CPU")


def test_two_servers_are_asked_side_by_side(server: RunningServer) -> None:
    with opened(server.target, server.target) as port:
        listed = {one["id"]: one for one in json.loads(ask(port, "/lab/models")[1])}
        events = run(port, [BLUR, BLUR.replace("0/", "1/")], [COAT], reach=2)
    assert {one[:2] for one in listed} == {"0/", "1/"}
    first, second = of_kind(events, "done")[0]["models"]
    assert first["curve"] == second["curve"]


def test_versions_of_a_model_of_somebody_else_are_asked_each_and_need_no_labels(
    tmp_path: Path,
) -> None:
    config = 'platform: "onnxruntime_onnx" max_batch_size: 4 version_policy { all {} }'
    folder = put_model(tmp_path, "net", make_net(), config)
    shutil.copytree(folder / "1", folder / "2")
    running = start_server(tmp_path)
    try:
        with opened(running.target) as port:
            listed = json.loads(ask(port, "/lab/models")[1])
            ids = [one["id"] for one in listed]
            events = run(port, ids, [COFFEE], path="map", reach=3)
    finally:
        assert running.stop() == 0
    assert ids == ["0/net/1", "0/net/2"]
    answers = of_kind(events, "answers")
    assert [len(one["answers"]) for one in answers] == [4, 4, 4, 4, 1, 1]
    assert all(
        re.fullmatch("class [0-4]", row["answer"]) for one in answers for row in one["answers"]
    )


def test_a_server_that_is_away_is_told_of_and_the_other_is_listed(server: RunningServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        away = f"127.0.0.1:{free.getsockname()[1]}"
    with opened(server.target, away) as port:
        *known, other = json.loads(ask(port, "/lab/models")[1])
    assert all("reason" not in one for one in known)
    assert (other["target"], "nobody listens there" in other["reason"]) == (away, True)


def test_an_animation_has_a_frame_for_each_position_in_the_colours_of_the_page(lab: int) -> None:
    body = body_of([STRIDED, BLUR], [COAT], path="diagonal", reach=4)
    status, made = ask(lab, "/lab/animation", body)
    assert status == 200
    with Image.open(BytesIO(made)) as gif:
        assert getattr(gif, "n_frames", 1) == 5
        shown = {colour for _, colour in gif.convert("RGB").getcolors(1 << 20) or ()}
    style = ask(lab, "/lab/lab.css")[1].decode()
    light = re.findall(r"--answer-\d: (#\w+)", style)[: len(COLOURS)]
    assert tuple(light) == COLOURS
    wanted = ImageColor.getrgb(COLOURS[0])
    assert any(np.abs(np.subtract(one, wanted)).sum() < 12 for one in shown)


def test_letters_and_lines_stand_out_from_what_they_are_on_in_both_themes(lab: int) -> None:
    light, dark = ask(lab, "/lab/lab.css")[1].decode().partition("--answer-0: #56b4e9")[::2]
    for ink, style in (("#ffffff", light), ("#14171b", f"--answer-0: #56b4e9{dark}")):
        assert f"--ink: {ink}" in style
        colours = re.findall(r"--answer-\d: (#\w{6})", style)
        assert len(colours) == len(COLOURS)
        for colour in colours:
            assert contrast(colour, ink) >= 4.5, colour  # ink is the ground of the page


def contrast(first: str, second: str) -> float:
    """Return the contrast of two colours as WCAG 2 has it, 1..21."""
    channels = np.array([ImageColor.getrgb(first), ImageColor.getrgb(second)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    low, high = np.sort(linear @ [0.2126, 0.7152, 0.0722])
    return float((high + 0.05) / (low + 0.05))


def test_an_animation_is_of_one_picture(lab: int) -> None:
    status, told = ask(lab, "/lab/animation", body_of([BLUR], [COAT, COAT]))
    assert (status, json.loads(told)["error"]) == (400, "an animation is of 1 picture, got 2")


def test_samples_are_listed_and_served_and_nothing_beside_them(lab: int) -> None:
    listed = json.loads(ask(lab, "/lab/samples")[1])
    assert {"group": "fashion", "name": "coat"} in listed
    assert ask(lab, "/lab/samples/fashion/coat") == (200, COAT.read_bytes())
    for path in ("fashion/%2e%2e%2ffashion_sample", "fashion/none", "weights/coat"):
        assert ask(lab, f"/lab/samples/{path}")[0] == 404


def test_a_slide_has_the_answers_of_the_server_and_counts_their_flips(
    lab: int, client: Client
) -> None:
    events = run(lab, [STRIDED, BLUR], [COAT], move="circular", path="diagonal", reach=16)
    model = client.describe("fashion_strided")
    still = model.read_pictures([COAT])
    ranked = [
        client.classify(model, shift_circularly(still, np.array([[at, at]]), (2, 3)))[0][0]
        for at in range(17)
    ]
    told = sorted(
        (one for one in of_kind(events, "answers") if one["model"] == 0),
        key=lambda one: one["from"],
    )
    answers = [answer for one in told for answer in one["answers"]]
    assert [one["answer"] for one in answers] == [one.label for one in ranked]
    flips = sum(a.index != b.index for a, b in pairwise(ranked))
    strided, blurred = of_kind(events, "done")[0]["models"]
    assert (strided["changed"], strided["pairs"]) == (flips, 16)
    assert flips > 4
    assert (blurred["changed"], blurred["share"]) == (0, 1.0)
    (judged,) = of_kind(events, "picture")
    first, second = judged["models"][0]["flip"]["positions"]
    assert ranked[first].index != ranked[second].index
    assert second == first + 1
    assert len(judged["models"][0]["traces"][0]["shares"]) == 17


def test_pictures_in_folders_of_classes_are_judged_and_the_front_is_marked(
    lab: int, tmp_path: Path
) -> None:
    for label in ("coat", "6"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "coat.png").write_bytes(COAT.read_bytes())
    paths = sorted(tmp_path.glob("*/*.png"))
    strided, blurred = of_kind(run(lab, [STRIDED, BLUR], paths, reach=8), "done")[0]["models"]
    assert (blurred["right"], blurred["labelled"], blurred["pictures"]) == (1, 2, 2)
    assert blurred["front"]
    assert strided["share"] < blurred["share"]
    assert strided["latency_s"] > 0


def test_a_point_is_on_the_front_unless_another_is_as_good_everywhere_and_better_somewhere() -> (
    None
):
    assert pareto([(1, 0), (0, 1), (0, 0), (1, 0)]) == [True, True, False, True]


@pytest.mark.parametrize(
    ("model", "words"),
    [("0/nothing/1", "nothing"), ("7/fashion_blur/1", "no model '7/fashion_blur/1'")],
)
def test_a_model_that_is_not_there_is_told_by_its_name(lab: int, model: str, words: str) -> None:
    (event,) = run(lab, [model], [COAT])
    assert event["kind"] == "error"
    assert words in event["message"]


def test_what_is_no_picture_is_told_by_its_name(lab: int, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    *_, event = run(lab, [BLUR], [tmp_path / "notes.txt"])
    assert event["message"].startswith("notes.txt: expected a file of format JPEG, PNG, WEBP")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reach": MAX_REACH + 1}, f"less than or equal to {MAX_REACH}"),
        ({"step": 0.25}, "a step is 1.0 or 0.5 pixels, got 0.25"),
        ({"path": "map", "reach": 32, "step": 0.5}, "2 to 1024 positions, this one 4096"),
        ({"models": []}, "models: Tuple should have at least 1 item"),
        ({"models": [BLUR, BLUR]}, "a model stands twice"),
        ({"colour": "red"}, "colour: Extra inputs"),
    ],
)
def test_a_run_beyond_its_bounds_is_refused_with_them(
    lab: int, change: dict[str, Any], words: str
) -> None:
    body = body_of([BLUR], [COAT], **change)
    status, answer = ask(lab, "/lab/run", body)
    assert status == 400
    assert words in json.loads(answer)["error"]


def test_files_that_are_not_as_long_as_said_are_refused(lab: int) -> None:
    status, answer = ask(lab, "/lab/run", body_of([BLUR], [COAT]) + b"more")
    assert status == 400
    size = COAT.stat().st_size
    assert json.loads(answer)["error"] == f"the pictures have {size + 4} bytes, said were {size}"


def test_a_run_that_a_page_of_elsewhere_could_send_is_refused(lab: int) -> None:
    assert ask(lab, "/lab/run", body_of([BLUR], [COAT]), "text/plain")[0] == 415


def test_too_long_a_run_is_refused_before_it_is_read(lab: int) -> None:
    with socket.create_connection(("127.0.0.1", lab), timeout=10) as connection:
        head = f"POST /lab/run HTTP/1.1\r\nhost: localhost\r\ncontent-type: {TYPE}\r\n"
        connection.sendall(f"{head}content-length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode())
        assert b" 413 " in connection.recv(100)


def asked_of(stub: GRPCInferenceServiceStub, model: str) -> int:
    """Return how many pictures a model was asked for so far."""
    (one,) = stub.ModelStatistics(ModelStatisticsRequest(name=model)).model_stats
    return int(one.inference_count)


def test_two_runs_are_under_way_at_most_and_one_whose_caller_leaves_ends(
    lab: int, stub: GRPCInferenceServiceStub
) -> None:
    before = asked_of(stub, "efficientnet_lite0")
    long = body_of([EFFICIENT], [COFFEE], path="map", step=0.5)
    leaving = [HTTPConnection("127.0.0.1", lab, timeout=60) for _ in range(2)]
    for one in leaving:
        assert b"start" in sent(one, "/lab/run", long).readline()
    status, answer = ask(lab, "/lab/run", body_of([BLUR], [COAT]))
    assert (status, json.loads(answer)["error"][:20]) == (429, "2 runs are under way")
    assert ask(lab, "/lab/samples")[0] == 200
    for one in leaving:
        one.close()
    until = monotonic() + 60
    while (status := ask(lab, "/lab/run", body_of([BLUR], [COAT], reach=2))[0]) != 200:
        assert status == 429
        assert monotonic() < until
        sleep(0.02)
    assert asked_of(stub, "efficientnet_lite0") - before < 1024  # one of both to its end


def lab_command(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nyquist", "lab", "--no-open", "--http-port", "0", *options]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_command_says_where_the_lab_is_and_ctrl_c_ends_it(server: RunningServer) -> None:
    with lab_command("--target", server.target, "--target", server.target) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(line.split(":")[2].split("/")[0])
        status, page = ask(port, "/lab")
        assert status == 200
        assert b"The shift lab" in page
        with closing(HTTPConnection("127.0.0.1", port)) as connection:
            assert sent(connection, "/").headers["location"] == "lab"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_port_that_is_none_is_told_with_those_that_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        make_lab_parser().parse_args(["--http-port", "70000"])
    assert "a port is 0 to 65535, got '70000'" in capsys.readouterr().err


def test_without_a_server_the_command_says_what_helps() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with lab_command("--target", f"127.0.0.1:{port}") as process:
        _, told = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "nobody listens there" in told
    assert told.count("\n") == 1
