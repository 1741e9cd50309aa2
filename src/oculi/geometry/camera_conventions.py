r"""Cameras as COLMAP, nerfstudio and OpenGL write them, and ours (OpenCV axes, world to camera, centres at +0.5).

    COLMAP       sparse model: cameras, images, points3D as .txt or .bin; quaternion w x y z and t, world to camera, our axes
    nerfstudio   transforms.json: camera to world, OpenGL axes (x right, y up, z backward)
    OpenGL       camera to world; ours has y and z of the camera turned round: M_gl = M_ours diag(1, -1, -1, 1)

COLMAP's and nerfstudio's principal points count pixel centres at +0.5 as ours do. Lenses are our five coefficients
(`oculi.geometry.distortion`): SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL and OPENCV are read, and FULL_OPENCV where its
rational terms are 0; what is written is PINHOLE, OPENCV where there is distortion, FULL_OPENCV where k3 is not 0. Skew has
no place in any of them and is refused, as are fisheye models, by name.

Sources: COLMAP's format (colmap.github.io/format.html), nerfstudio's data conventions (docs.nerf.studio).
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from oculi.geometry.camera import Camera, pose_from_world_to_camera, world_to_camera_from_pose
from oculi.geometry.rotations import nearest_rotation, quaternion_from_rotation, rotation_from_quaternion

# COLMAP's models: number and names of the parameters, in its order
MODELS = {
    "SIMPLE_PINHOLE": (0, ("f", "cx", "cy")),
    "PINHOLE": (1, ("fx", "fy", "cx", "cy")),
    "SIMPLE_RADIAL": (2, ("f", "cx", "cy", "k1")),
    "RADIAL": (3, ("f", "cx", "cy", "k1", "k2")),
    "OPENCV": (4, ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2")),
    "FULL_OPENCV": (6, ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")),
}
NUMBERS = {number: name for name, (number, _) in MODELS.items()}
LENS = ("k1", "k2", "p1", "p2", "k3")


@dataclass
class View:
    """One picture of a reconstruction: its file's name, its camera and lens, and what it observed.

    pixels: keypoints; point_of_pixel: the row of the reconstruction's `points` that each one shows, -1 for none.
    """

    name: str
    camera: Camera
    distortion: Float[Tensor, " 5"]
    pixels: Float[Tensor, "n 2"] | None = None
    point_of_pixel: Int[Tensor, " n"] | None = None


@dataclass
class Reconstruction:
    """Views and the points they see, in metres or the reconstruction's own unit."""

    views: list[View]
    points: Float[Tensor, "m 3"]
    colors: UInt8[Tensor, "m 3"]


# axes ----------------------------------------------------------------------------------------------------------------


def opengl_from_world_to_camera(matrix: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Our world-to-camera as OpenGL's camera-to-world."""
    rotation, center = pose_from_world_to_camera(matrix)
    pose = torch.zeros_like(matrix)
    pose[..., :3, :3] = rotation * rotation.new_tensor([1, -1, -1])
    pose[..., :3, 3] = center
    pose[..., 3, 3] = 1.0
    return pose


def world_to_camera_from_opengl(pose: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """OpenGL's camera-to-world as our world-to-camera. Raises ValueError where its 3x3 part is no rotation."""
    rotation = pose[..., :3, :3] * pose.new_tensor([1, -1, -1])
    off = (rotation - nearest_rotation(rotation)).abs().amax() if torch.isfinite(rotation).all() else torch.inf
    if not float(off) < 1e-3:
        raise ValueError(
            f"pose: expected a rotation in its first three rows and columns, it is off by {float(off):.3g}"
        )
    return world_to_camera_from_pose(rotation, pose[..., :3, 3])


# COLMAP --------------------------------------------------------------------------------------------------------------


def write_colmap(folder: str | Path, reconstruction: Reconstruction, binary: bool = True) -> Path:
    """Write cameras, images and points3D (.bin, or .txt) into the folder; views of equal lens share a camera."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    models = [_model(view) for view in reconstruction.views]
    spaced = [view.name for view in reconstruction.views if view.name.split() != [view.name]]
    if spaced and not binary:
        raise ValueError(f"views: COLMAP's text files hold names without spaces, got {spaced[0]!r}")
    cameras = list(dict.fromkeys(models))
    numbered = [cameras.index(model) + 1 for model in models]
    tracks: list[list[tuple[int, int]]] = [[] for _ in reconstruction.points]
    for number, view in enumerate(reconstruction.views, 1):
        for pixel, point in enumerate([] if view.point_of_pixel is None else view.point_of_pixel.tolist()):
            if point >= 0:
                tracks[point].append((number, pixel))
    if binary:
        _write_binary(folder, reconstruction, cameras, numbered, tracks)
    else:
        _write_text(folder, reconstruction, cameras, numbered, tracks)
    return folder


def read_colmap(folder: str | Path) -> Reconstruction:
    """Read a sparse model, binary where cameras.bin lies there. Cameras are float64. Raises ValueError for what it does
    not know or cannot parse, FileNotFoundError where files are missing; points3D may be missing."""
    folder = Path(folder)
    suffix = ".bin" if (folder / "cameras.bin").is_file() else ".txt"
    reader = _read_binary if suffix == ".bin" else _read_text
    try:
        cameras, images, points = reader(folder)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder}: not a COLMAP model ({error})") from None
    row = {identity: k for k, (identity, _, _) in enumerate(points)}
    views = []
    for name, camera, pose, pixels in images:
        if camera not in cameras:
            raise ValueError(f"{folder}: image {name} names camera {camera}, which is not there")
        model, width, height, values = cameras[camera]
        K, lens = _lens(model, values)
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, :3] = rotation_from_quaternion(torch.tensor(pose[:4], dtype=torch.float64))
        matrix[:3, 3] = torch.tensor(pose[4:], dtype=torch.float64)
        seen = torch.tensor([p[:2] for p in pixels], dtype=torch.float64).reshape(-1, 2)
        shown = torch.tensor([row.get(p[2], -1) for p in pixels], dtype=torch.int64)
        views.append(View(name, Camera(K, matrix, height, width), lens, seen, shown))
    return Reconstruction(
        views,
        torch.tensor([xyz for _, xyz, _ in points], dtype=torch.float64).reshape(-1, 3),
        torch.tensor([rgb for _, _, rgb in points], dtype=torch.uint8).reshape(-1, 3),
    )


def _model(view: View) -> tuple[str, int, int, tuple[float, ...]]:
    K, lens = view.camera.K, view.distortion.tolist()
    if K.ndim != 2:
        raise ValueError(f"views: expected one camera a view, {view.name} has a batch of shape {tuple(K.shape[:-2])}")
    if abs(float(K[0, 1])) > 1e-9 * abs(float(K[0, 0])):
        raise ValueError(f"views: {view.name} has a skew of {float(K[0, 1]):.3g}, which these formats cannot say")
    pinhole = (float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]))
    size = (view.camera.width, view.camera.height)
    if lens[4] != 0:
        return "FULL_OPENCV", *size, (*pinhole, *lens, 0.0, 0.0, 0.0)
    return ("OPENCV", *size, (*pinhole, *lens[:4])) if any(lens) else ("PINHOLE", *size, pinhole)


def _lens(model: str, values: list[float]) -> tuple[Tensor, Tensor]:
    """K and our five coefficients, float64."""
    names = MODELS[model][1]
    if len(values) != len(names):
        raise ValueError(f"{model}: expected {len(names)} parameters, got {len(values)}")
    named = dict(zip(names, values))
    if any(named.get(k) for k in ("k4", "k5", "k6")):
        raise ValueError(f"{model}: the rational terms k4, k5, k6 are not supported where they are not 0")
    fx, fy = named.get("fx", named.get("f", 0.0)), named.get("fy", named.get("f", 0.0))
    K = torch.tensor([[fx, 0, named["cx"]], [0, fy, named["cy"]], [0, 0, 1]], dtype=torch.float64)
    return K, torch.tensor([named.get(k, 0.0) for k in LENS], dtype=torch.float64)


def _pose(view: View) -> list[float]:
    matrix = view.camera.world_to_camera.double()
    return [*quaternion_from_rotation(matrix[:3, :3]).tolist(), *matrix[:3, 3].tolist()]


def _observed(view: View) -> list[tuple[float, float, int]]:
    if view.pixels is None or view.point_of_pixel is None:
        return []
    shown = [point + 1 if point >= 0 else -1 for point in view.point_of_pixel.tolist()]
    return [(x, y, point) for (x, y), point in zip(view.pixels.tolist(), shown, strict=True)]


def _write_text(folder: Path, made: Reconstruction, cameras: list[Any], numbered: list[int], tracks: list[Any]) -> None:
    lines = [f"{k} {m} {w} {h} {' '.join(map(repr, values))}" for k, (m, w, h, values) in enumerate(cameras, 1)]
    _replace(folder / "cameras.txt", "\n".join(["# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]", *lines, ""]).encode())
    lines = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME", "# X Y POINT3D_ID ..."]
    for k, (view, camera) in enumerate(zip(made.views, numbered), 1):
        lines.append(f"{k} {' '.join(map(repr, _pose(view)))} {camera} {view.name}")
        lines.append(" ".join(f"{x!r} {y!r} {point}" for x, y, point in _observed(view)))
    _replace(folder / "images.txt", "\n".join([*lines, ""]).encode())
    lines = ["# POINT3D_ID X Y Z R G B ERROR TRACK[] as (IMAGE_ID POINT2D_IDX)"]
    for k, (xyz, rgb, track) in enumerate(zip(made.points.tolist(), made.colors.tolist(), tracks, strict=True), 1):
        seen = " ".join(f"{image} {pixel}" for image, pixel in track)
        lines.append(f"{k} {' '.join(map(repr, xyz))} {' '.join(map(str, rgb))} 0.0 {seen}".rstrip())
    _replace(folder / "points3D.txt", "\n".join([*lines, ""]).encode())


def _read_text(folder: Path) -> tuple[dict[int, Any], list[Any], list[Any]]:
    cameras: dict[int, Any] = {}
    for line in _lines(folder / "cameras.txt"):
        number, model, width, height, *values = line.split()
        cameras[int(number)] = (_known(model), int(width), int(height), [float(v) for v in values])
    images = []
    content = _lines(folder / "images.txt", blank=True)
    while content and not content[-1].strip() and len(content) % 2:
        content.pop()
    for head, tail in zip(content[::2], content[1::2], strict=True):
        words, seen = head.split(maxsplit=9), tail.split()
        pixels = [(float(x), float(y), int(p)) for x, y, p in zip(seen[::3], seen[1::3], seen[2::3], strict=True)]
        images.append((words[9], int(words[8]), [float(v) for v in words[1:8]], pixels))
    points = []
    for line in _lines(folder / "points3D.txt") if (folder / "points3D.txt").is_file() else []:
        words = line.split()
        points.append((int(words[0]), [float(v) for v in words[1:4]], [int(v) for v in words[4:7]]))
    return cameras, images, points


def _lines(path: Path, blank: bool = False) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#") and (blank or line.strip())]


def _known(model: str | int) -> str:
    name = NUMBERS.get(model, f"number {model}") if isinstance(model, int) else model
    if name not in MODELS:
        raise ValueError(f"camera model {name}: expected one of {', '.join(MODELS)}")
    return name


def _write_binary(
    folder: Path, made: Reconstruction, cameras: list[Any], numbered: list[int], tracks: list[Any]
) -> None:
    parts = [struct.pack("<Q", len(cameras))]
    for k, (model, width, height, values) in enumerate(cameras, 1):
        parts.append(struct.pack(f"<iiQQ{len(values)}d", k, MODELS[model][0], width, height, *values))
    _replace(folder / "cameras.bin", b"".join(parts))
    parts = [struct.pack("<Q", len(made.views))]
    for k, (view, camera) in enumerate(zip(made.views, numbered), 1):
        seen = _observed(view)
        parts.append(struct.pack("<i7di", k, *_pose(view), camera) + view.name.encode() + b"\0")
        parts.append(struct.pack("<Q", len(seen)))
        parts += [struct.pack("<ddq", *pixel) for pixel in seen]
    _replace(folder / "images.bin", b"".join(parts))
    parts = [struct.pack("<Q", len(made.points))]
    for k, (xyz, rgb, track) in enumerate(zip(made.points.tolist(), made.colors.tolist(), tracks, strict=True), 1):
        parts.append(struct.pack("<Q3d3Bd", k, *xyz, *rgb, 0.0) + struct.pack("<Q", len(track)))
        parts += [struct.pack("<ii", *seen) for seen in track]
    _replace(folder / "points3D.bin", b"".join(parts))


def _read_binary(folder: Path) -> tuple[dict[int, Any], list[Any], list[Any]]:
    cameras: dict[int, Any] = {}
    with (folder / "cameras.bin").open("rb") as file:
        for _ in range(_unpack(file, "Q")[0]):
            number, model, width, height = _unpack(file, "iiQQ")
            name = _known(model)
            cameras[number] = (name, width, height, list(_unpack(file, f"{len(MODELS[name][1])}d")))
    images = []
    with (folder / "images.bin").open("rb") as file:
        for _ in range(_unpack(file, "Q")[0]):
            _, *pose, camera = _unpack(file, "i7di")
            letters = b""
            while (letter := file.read(1)) not in (b"\0", b""):
                letters += letter
            seen = _unpack(file, "ddq" * _count(file, 24))
            images.append((letters.decode(), camera, pose, list(zip(seen[::3], seen[1::3], seen[2::3], strict=True))))
    points = []
    if (folder / "points3D.bin").is_file():
        with (folder / "points3D.bin").open("rb") as file:
            for _ in range(_unpack(file, "Q")[0]):
                number, x, y, z, red, green, blue, _ = _unpack(file, "Q3d3Bd")
                points.append((number, [x, y, z], [red, green, blue]))
                file.seek(8 * _count(file, 8), os.SEEK_CUR)
    return cameras, images, points


def _unpack(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    layout = "<" + layout
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _count(file: BinaryIO, size: int) -> int:
    """How many records of `size` bytes follow. Raises ValueError where the file is too short for them."""
    count = _unpack(file, "Q")[0]
    left = os.fstat(file.fileno()).st_size - file.tell()
    if count * size > left:
        raise ValueError(f"{file.name}: not a COLMAP model ({count} records announced, room for {left // size})")
    return count


# nerfstudio ----------------------------------------------------------------------------------------------------------


def write_nerfstudio(path: str | Path, views: list[View]) -> Path:
    """Write transforms.json, with intrinsics, lens and size in every frame."""
    frames = []
    for view in views:
        _, width, height, values = _model(view)
        fx, fy, cx, cy = values[:4]
        frame = {"file_path": view.name, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": width, "h": height}
        frame |= dict(zip(LENS, view.distortion.tolist()))
        frame["transform_matrix"] = opengl_from_world_to_camera(view.camera.world_to_camera.double()).tolist()
        frames.append(frame)
    _replace(Path(path), (json.dumps({"camera_model": "OPENCV", "frames": frames}, indent=2) + "\n").encode())
    return Path(path)


def read_nerfstudio(path: str | Path) -> list[View]:
    """The frames of a transforms.json; what a frame does not say stands at the top of the file. `camera_angle_x` (Blender's
    scenes) serves where there is no focal length. Raises ValueError for missing keys and other lens models."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    views = []
    for frame in content.get("frames", []):
        said = {**{k: v for k, v in content.items() if k != "frames"}, **frame}
        if said.get("camera_model", "OPENCV") not in MODELS:
            raise ValueError(f"camera_model: expected one of {', '.join(MODELS)}, got {said['camera_model']}")
        if said.get("k4"):
            raise ValueError("k4: only five coefficients are supported, got a fourth radial one")
        missing = [key for key in ("file_path", "transform_matrix", "w", "h") if key not in said]
        if missing or not ("fl_x" in said or "camera_angle_x" in said):
            raise ValueError(f"{path}: a frame lacks {', '.join(missing) or 'fl_x'}")
        width, height = int(said["w"]), int(said["h"])
        half_angle = torch.tensor(said.get("camera_angle_x", 1.0) / 2, dtype=torch.float64)
        fx = said.get("fl_x", 0.5 * width / float(half_angle.tan()))
        across, down = [fx, 0, said.get("cx", width / 2)], [0, said.get("fl_y", fx), said.get("cy", height / 2)]
        K = torch.tensor([across, down, [0, 0, 1]], dtype=torch.float64)
        pose = world_to_camera_from_opengl(torch.tensor(said["transform_matrix"], dtype=torch.float64))
        lens = torch.tensor([float(said.get(k, 0.0)) for k in LENS], dtype=torch.float64)
        views.append(View(said["file_path"], Camera(K, pose, height, width), lens))
    return views


def _replace(path: Path, content: bytes) -> None:
    """Write under a temporary name, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
