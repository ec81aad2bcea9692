"""``watch`` on videos and streams. A stream is served to this machine, cut, and served again."""

from __future__ import annotations

import contextlib
import http.server
import io
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from image_trees import write_video
from PIL import Image
from watching import lines, pixels, until, watch, watch_until

from animals_pl.deploy.watch.frame import Stop
from animals_pl.deploy.watch.video import Stream, VideoFile

pytest.importorskip("cv2")

WIDTH, HEIGHT = 128, 96


def numbered(number: int) -> np.ndarray:
    """A grey frame whose level says its number, modulo 25."""
    return np.full((HEIGHT, WIDTH, 3), 10 * (number % 25), np.uint8)


def number_of(frame: np.ndarray) -> int:
    return round(float(frame.mean()) / 10)


@pytest.fixture
def scene(certain) -> list[np.ndarray]:
    """Three seconds of a dog, three of an elephant, three of a dog; ten frames in each."""
    dog, elephant = (pixels(certain[name], (WIDTH, HEIGHT)) for name in ("cane", "elefante"))
    return [dog] * 30 + [elephant] * 30 + [dog] * 30


def level(identifier, scene) -> float:
    """A threshold between the elephant and the dog."""
    label = identifier.class_names.index("elefante")
    dog, elephant = identifier.probabilities([scene[0], scene[30]])[:, label]
    assert elephant > dog
    return round(float(dog + elephant) / 2, 4)


# ---------------------------------------------------------------- files


def test_frames_of_a_file_are_taken_at_their_times(tmp_path):
    file = write_video(tmp_path / "film.avi", [numbered(i) for i in range(25)])
    frames = [frame for frame in VideoFile(file, 0.5, Stop()) if frame]
    assert [frame.time for frame in frames] == pytest.approx([0, 0.5, 1, 1.5, 2])
    assert [number_of(frame.pixels) for frame in frames] == [0, 5, 10, 15, 20]
    assert len({frame.key for frame in frames}) == 5
    assert frames[3].facts == {"path": str(file), "position": 1.5}


def test_colours_are_red_green_blue(tmp_path):
    red = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    red[..., 0] = 250
    (frame,) = VideoFile(write_video(tmp_path / "red.avi", [red]), 1, Stop())
    assert frame.pixels.reshape(-1, 3).mean(axis=0) == pytest.approx([250, 0, 0], abs=8)


def test_an_elephant_in_a_video_raises_one_alert(model, identifier, scene, card, tmp_path, capsys):
    film, out = write_video(tmp_path / "film.avi", scene), tmp_path / "out.jsonl"
    args = [model, film, "--alert", f"elephant:{level(identifier, scene)}", "--output", out, "--every", "500ms"]
    assert watch(*args, "--snapshots", tmp_path / "snaps", "--frames", "3/3") == 0
    (alert,) = lines(out)
    assert (alert["class"], alert["path"], alert["position"]) == ("elefante", str(film), 4.0)  # the third: 3, 3.5, 4
    with Image.open(alert["snapshot"]) as picture:
        assert np.abs(np.asarray(picture).astype(int) - scene[30]).mean() < 12
    assert "18 images, 1 alert" in capsys.readouterr().err
    assert watch(*args) == 0  # again, with the rule 2/3: the alert at 3.5 is another one
    assert [line["position"] for line in lines(out)] == [4.0, 3.5]
    assert watch(*args) == 0
    assert len(lines(out)) == 2 and "18 images, 0 alerts" in capsys.readouterr().err.splitlines()[-1]


def test_files_that_are_not_videos(model, card, tmp_path, capsys):
    film = write_video(tmp_path / "film.avi", [numbered(i) for i in range(20)])
    (tmp_path / "cut.avi").write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    (tmp_path / "text.mp4").write_text("no video " * 1000)
    (tmp_path / "empty.mp4").touch()
    for name in ("cut.avi", "text.mp4", "empty.mp4"):
        assert watch(model, tmp_path / name, "--alert", "dog") == 2
        assert f"{name}' has no frames that OpenCV can read" in capsys.readouterr().err.splitlines()[-1]


# ---------------------------------------------------------------- streams


class Camera:
    """Serves frames as an MJPEG stream to this machine, and counts them."""

    def __init__(self, image: Callable[[int], np.ndarray]) -> None:
        self.sent = 0
        self.connections = 0
        self.cut = threading.Event()
        self.gate = threading.Semaphore(0)
        """Frames that may be sent."""
        camera = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.connections += 1
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                while not camera.cut.is_set():
                    if camera.gate.acquire(timeout=0.05):
                        self._send(image(camera.sent))

            def _send(self, frame: np.ndarray) -> None:
                stream = io.BytesIO()
                Image.fromarray(frame).save(stream, "JPEG", quality=95)
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {stream.tell()}\r\n\r\n"
                self.wfile.write(head.encode() + stream.getvalue() + b"\r\n")
                self.wfile.flush()
                camera.sent += 1

            def handle(self) -> None:
                with contextlib.suppress(OSError):  # the client is gone
                    super().handle()

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/live?password=secret"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def send(self, count: int) -> None:
        """Let frames be sent, and wait until they are."""
        aim = self.sent + count
        self.gate.release(count)
        until(lambda: self.sent >= aim)

    def close(self) -> None:
        """Stop."""
        self.cut.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def camera() -> Iterator[Camera]:
    """A camera whose frames say their numbers."""
    camera = Camera(numbered)
    yield camera
    camera.close()


def test_a_stream_that_is_cut_is_connected_again_and_the_elephant_raises_one_alert(
    model, identifier, scene, card, tmp_path, capsys
):
    camera, out = Camera(lambda number: scene[min(number, 59)]), tmp_path / "out.jsonl"
    args = [model, camera.url, "--alert", f"elephant:{level(identifier, scene)}", "--output", out]

    def alert_after_another_frame() -> bool:
        camera.gate.release()
        return bool(lines(out))

    def play() -> None:
        camera.send(45)
        camera.cut.set()
        until(lambda: camera.connections >= 2)
        camera.cut.clear()
        until(alert_after_another_frame)

    player = threading.Thread(target=play)
    player.start()
    try:
        assert watch_until(lambda: not player.is_alive() and lines(out), *args) == 130
    finally:
        player.join()
        camera.close()
    (alert,) = lines(out)
    assert alert["class"] == "elefante" and "path" not in alert
    log = capsys.readouterr().err
    assert " reconnection" in log and "no frames; reconnecting in" in log
    assert "secret" not in log + out.read_text()
    assert alert["source"] == camera.url.partition("?")[0]


def test_the_newest_frame_wins_and_the_others_are_dropped(camera):
    counts, stop = Counter(), Stop()
    frames = iter(Stream(camera.url, 0, counts, stop))
    camera.gate.release(1)
    camera_frames = (frame for frame in frames if frame)
    camera.gate.release(30)
    first = next(camera_frames)
    assert number_of(first.pixels) <= 24
    camera.send(300)
    before = camera.sent
    until(lambda: counts["dropped"] >= before - 40)
    frame = next(camera_frames)
    assert camera.sent - counts["dropped"] <= 40  # OpenCV itself holds back some
    assert frame.time > first.time
    stop.signal = 2
    assert list(camera_frames) == []


def test_a_camera_that_is_absent_is_tried_again(model, card, capsys):
    log = []

    def is_tried_again() -> bool:
        log.append(capsys.readouterr().err)
        return "".join(log).count("camera 99: no frames; reconnecting in") >= 2

    assert watch_until(is_tried_again, model, "99", "--alert", "dog") == 130
