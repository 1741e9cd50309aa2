r"""Camera calibration: intrinsics and lens from several views of a flat board of known geometry.

Closed form (Zhang). A board in the plane z = 0 is seen through the homography H = K [r1 r2 t], up to scale. Since r1 and r2
are orthonormal, B = K^{-T} K^{-1} satisfies for every view

    h1^T B h2 = 0        h1^T B h1 = h2^T B h2

two linear equations in the entries of the symmetric B; the right singular vector of the least singular value gives B, and B
gives K. Without skew two views fix K, with skew three. Pose: [r1 r2 t] = K^{-1} H scaled to |r1| = 1, r3 = r1 x r2, made a
rotation.

Refinement. Levenberg-Marquardt on the reprojection error of all corners over K, the lens (k1, k2, p1, p2, k3) and every
pose, from a lens of zeros:

    RMS = sqrt(sum ||seen - projected||^2 / corners)        pixels, as OpenCV counts it

Boards that are all parallel do not fix the focal length: ValueError, from the equations' rank without noise and from the
focal length's standard deviation with it.

    corners   views x (rows columns) x 2 pixels, centres at +0.5;  board in metres (or any unit: poses are in that unit)

Zhang: A Flexible New Technique for Camera Calibration, PAMI 22(11), 2000. Lens model: `oculi.geometry.distortion`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from oculi.classical.chessboard import board_corners, find_chessboard, render_chessboard
from oculi.geometry.camera import Camera, look_at
from oculi.geometry.distortion import distort, pixels_of
from oculi.geometry.homography import solve_dlt
from oculi.geometry.rotations import nearest_rotation, rotation_from_vector, vector_from_rotation
from oculi.ops.least_squares import levenberg_marquardt

WORST_DEVIATION = 0.2  # of the focal length, as a share of it, above which the views do not fix it


@dataclass
class Calibration:
    """What the views say, float64. `deviation`: standard deviations of fx, fy, cx, cy (and skew) and the five lens terms.

    rms: over all corners in pixels; view_rms: of each view.
    """

    K: Float[Tensor, "3 3"]
    distortion: Float[Tensor, " 5"]
    world_to_camera: Float[Tensor, "views 4 4"]
    rms: float
    view_rms: Float[Tensor, " views"]
    deviation: Float[Tensor, " shared"]


class CameraCalibration:
    """Calibrates from views of a chessboard with `rows` x `columns` inner corners and squares of side `square`.

    skew: whether pixels may be slanted; distortion: whether the lens is estimated, else it is ideal.
    """

    def __init__(
        self,
        rows: int = 6,
        columns: int = 9,
        square: float = 0.03,
        skew: bool = False,
        distortion: bool = True,
        steps: int = 100,
    ):
        if min(rows, columns) < 2:
            raise ValueError(f"rows, columns: expected at least 2 inner corners each way, got {rows} x {columns}")
        if not square > 0:
            raise ValueError(f"square: expected a side above 0, got {square}")
        self.rows, self.columns, self.square = rows, columns, square
        self.skew, self.distortion, self.steps = skew, distortion, steps

    def find(self, images: Sequence[Float[Tensor, "c h w"]]) -> tuple[Float[Tensor, "views n 2"], list[int]]:
        """Corners of the pictures that show the whole board, and these pictures' numbers. ValueError where none does."""
        answers = [find_chessboard(image, self.rows, self.columns) for image in images]
        found = [k for k, corners in enumerate(answers) if corners is not None]
        if not found:
            raise ValueError(f"images: none of {len(answers)} shows a board of {self.rows} x {self.columns} corners")
        return torch.stack([corners for corners in answers if corners is not None]).double(), found

    def fit(self, corners: Float[Tensor, "views n 2"], height: int, width: int) -> Calibration:
        """K, lens and poses from corners in pictures of `height` x `width`. ValueError where the views do not fix them."""
        self._check(corners)
        board, seen = board_corners(self.rows, self.columns, self.square)[:, :2], corners.double()
        H, well_posed = solve_dlt(board.expand(len(seen), -1, -1), seen)
        if not bool(well_posed.all()):
            bad = (~well_posed).nonzero()[:, 0].tolist()
            raise ValueError(f"corners: views {bad} lie on one line or coincide")
        K = intrinsics_from_homographies(H, height, width, self.skew)
        return self._refined(K, board_poses(H, K), board, seen)

    def _check(self, corners: Tensor) -> None:
        least, wanted = 3 if self.skew else 2, self.rows * self.columns
        if corners.ndim != 3 or corners.shape[1:] != (wanted, 2):
            raise ValueError(f"corners: expected views x {wanted} x 2, got {tuple(corners.shape)}")
        if len(corners) < least:
            raise ValueError(f"corners: expected at least {least} views, got {len(corners)}")
        if not bool(torch.isfinite(corners).all()):
            raise ValueError("corners: expected finite pixels, got NaN or infinity")

    def _refined(self, K: Tensor, poses: Tensor, board: Tensor, seen: Tensor) -> Calibration:
        views, shared = len(seen), 4 + self.skew + 5 * self.distortion

        def residual(common: Tensor, own: Tensor, pixels: Tensor) -> Tensor:
            return (self._seen(common, own, board) - pixels).flatten()

        def residuals(p: Tensor) -> Tensor:
            own = p[shared:].view(views, 6)
            return torch.func.vmap(residual, in_dims=(None, 0, 0))(p[:shared], own, seen).flatten()

        def jacobian(p: Tensor) -> Tensor:
            slopes = torch.func.vmap(torch.func.jacfwd(residual, argnums=(0, 1)), in_dims=(None, 0, 0))
            of_all, of_one = slopes(p[:shared], p[shared:].view(views, 6), seen)
            diagonal = torch.eye(views, dtype=p.dtype, device=p.device)[:, None, :, None] * of_one[:, :, None]
            return torch.cat([of_all.flatten(0, 1), diagonal.flatten(2).flatten(0, 1)], 1)

        known = [K[0, 0], K[1, 1], K[0, 2], K[1, 2], *([K[0, 1]] if self.skew else [])]
        common = F.pad(torch.stack(known), (0, 5 * self.distortion))
        own = torch.cat([vector_from_rotation(poses[:, :3, :3]), poses[:, :3, 3]], 1)
        start = torch.cat([common, own.flatten()])[None]
        found = levenberg_marquardt(residuals, start, jacobian=jacobian, steps=self.steps)
        deviation = _deviations(found.jacobian[0], found.residuals[0])[:shared]
        p = found.parameters[0]
        share = float((deviation[:2] / p[:2].abs()).max())
        if not share < WORST_DEVIATION or not bool((p[:2] > 0).all()):
            raise ValueError(f"corners: the views fix the focal length to {share:.0%} only; turn the board more")
        K, lens = self._split(p[:shared])
        errors = found.residuals[0].view(views, -1, 2).square().sum(-1)
        own = p[shared:].view(views, 6)
        poses = torch.eye(4, dtype=p.dtype, device=p.device).repeat(views, 1, 1)
        poses[:, :3, :3], poses[:, :3, 3] = rotation_from_vector(own[:, :3]), own[:, 3:]
        return Calibration(K, lens, poses, float(errors.mean().sqrt()), errors.mean(1).sqrt(), deviation)

    def _split(self, common: Float[Tensor, " shared"]) -> tuple[Float[Tensor, "3 3"], Float[Tensor, " 5"]]:
        zero, one = torch.zeros_like(common[0]), torch.ones_like(common[0])
        fx, fy, cx, cy = common[:4].unbind()
        slant = common[4] if self.skew else zero
        K = torch.stack([fx, slant, cx, zero, fy, cy, zero, zero, one]).view(3, 3)
        return K, common[-5:] if self.distortion else torch.stack([zero] * 5)

    def _seen(self, common: Tensor, own: Float[Tensor, " 6"], board: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
        """The board's pixels under one pose."""
        K, lens = self._split(common)
        places = board @ rotation_from_vector(own[:3])[:, :2].transpose(0, 1) + own[3:]
        return pixels_of(distort(places[:, :2] / places[:, 2:], lens), K)


def intrinsics_from_homographies(
    H: Float[Tensor, "views 3 3"], height: int, width: int, skew: bool = False
) -> Float[Tensor, "3 3"]:
    """Zhang's closed form. Where noise leaves it without a camera, the principal point is taken as the picture's middle.

    Raises ValueError where the views do not fix K, being parallel.
    """
    scale = (height + width) / 2
    N = H.new_tensor([[1 / scale, 0, -width / 2 / scale], [0, 1 / scale, -height / 2 / scale], [0, 0, 1]])
    h = N @ H
    h = h / torch.linalg.matrix_norm(h[..., :2])[..., None, None]
    equations = torch.cat([_products(h, 0, 1), _products(h, 0, 0) - _products(h, 1, 1)])
    if not skew:
        equations = equations[:, [0, 2, 3, 4, 5]]
    _, singular, right = torch.linalg.svd(equations, full_matrices=True)
    unknowns = equations.shape[1]
    if len(singular) < unknowns - 1 or float(singular[unknowns - 2]) < 1e-7 * float(singular[0]):
        raise ValueError("H: the views do not fix K (the boards are parallel); turn the board between views")
    b = right[-1] if skew else torch.cat([right[-1][:1], right[-1].new_zeros(1), right[-1][1:]])
    K = _camera_of_conic(b)
    if K is None:
        K = _centred(h)
    return torch.linalg.inv(N) @ K


def _products(h: Float[Tensor, "views 3 3"], i: int, j: int) -> Float[Tensor, "views 6"]:
    """v with v . (B11, B12, B22, B13, B23, B33) = h_i^T B h_j."""
    a, b = h[..., i], h[..., j]
    a1, a2, a3 = a.unbind(-1)
    b1, b2, b3 = b.unbind(-1)
    return torch.stack([a1 * b1, a1 * b2 + a2 * b1, a2 * b2, a3 * b1 + a1 * b3, a3 * b2 + a2 * b3, a3 * b3], -1)


def _camera_of_conic(b: Float[Tensor, " 6"]) -> Float[Tensor, "3 3"] | None:
    """K of B = K^{-T} K^{-1} up to scale; None where B is no such matrix or the principal point is far outside."""
    B11, B12, B22, B13, B23, B33 = b / torch.where(b[0] == 0, 1.0, b[0])
    below = B11 * B22 - B12 * B12
    v = (B12 * B13 - B11 * B23) / below
    scale = B33 - (B13 * B13 + v * (B12 * B13 - B11 * B23)) / B11
    if not (float(B11) > 0 and float(below) > 0 and float(scale) > 0):
        return None
    fx, fy = (scale / B11).sqrt(), (scale * B11 / below).sqrt()
    slant = -B12 * fx * fx * fy / scale
    u = slant * v / fy - B13 * fx * fx / scale
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    if not max(abs(float(u)), abs(float(v))) < 1:
        return None
    return torch.stack([fx, slant, u, zero, fy, v, zero, zero, one]).view(3, 3)


def _centred(h: Float[Tensor, "views 3 3"]) -> Float[Tensor, "3 3"]:
    """K with the principal point at 0: least squares for 1 / fx^2 and 1 / fy^2."""
    first, second = _products(h, 0, 1), _products(h, 0, 0) - _products(h, 1, 1)
    equations = torch.cat([first, second])
    inverse = torch.linalg.lstsq(equations[:, [0, 2]], -equations[:, 5:]).solution[:, 0]
    if not bool((inverse > 0).all()):
        raise ValueError("H: the views do not fix K (no focal length agrees with them); turn the board between views")
    return torch.diag(torch.cat([inverse.rsqrt(), inverse.new_ones(1)]))


def board_poses(H: Float[Tensor, "views 3 3"], K: Float[Tensor, "3 3"]) -> Float[Tensor, "views 4 4"]:
    """World-to-camera of each view, the board being the world's plane z = 0 in front of the camera."""
    M = torch.linalg.inv(K) @ H
    length = torch.linalg.norm(M[..., :2], dim=-2).mean(-1)
    M = M / (length * torch.where(M[..., 2, 2] < 0, -1.0, 1.0))[..., None, None]
    r1, r2, t = M.unbind(-1)
    poses = torch.eye(4, dtype=H.dtype, device=H.device).repeat(len(H), 1, 1)
    poses[:, :3, :3] = nearest_rotation(torch.stack([r1, r2, torch.linalg.cross(r1, r2)], -1))
    poses[:, :3, 3] = t
    return poses


def _deviations(J: Float[Tensor, "r p"], residuals: Float[Tensor, " r"]) -> Float[Tensor, " p"]:
    """Standard deviations sqrt(diag s^2 (J^T J)^{-1}), s^2 = ||r||^2 / (r - p); infinite where J has not full rank."""
    scale = torch.linalg.norm(J, dim=0).clamp_min(1e-300)
    scaled = J / scale
    singular = torch.linalg.svdvals(scaled)
    if float(singular[-1]) < 1e-9 * float(singular[0]):
        return torch.full_like(scale, torch.inf)
    inverse = torch.linalg.inv(scaled.T @ scaled).diagonal().clamp_min(0)
    variance = residuals.square().sum() / max(1, len(residuals) - J.shape[1])
    return (variance * inverse).sqrt() / scale


# the experiment ------------------------------------------------------------------------------------------------------


def board_views(views: int, rows: int, columns: int, square: float, height: int, width: int, seed: int = 0) -> Camera:
    """Cameras about a board, at most 40 degrees off its normal and 20 rolled, that see all of it; f is 0.9 of the width."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(views, 6, generator=generator, dtype=torch.float64)
    turn = torch.arange(views, dtype=torch.float64) * 2.39996 + drawn[:, 0]  # the golden angle, so that all sides occur
    tilt = torch.deg2rad(15 + 25 * drawn[:, 1])
    roll = torch.deg2rad(40 * (drawn[:, 2] - 0.5))
    extent = square * torch.tensor([columns - 1, rows - 1, 0], dtype=torch.float64)
    distance = (1.3 + 0.4 * drawn[:, 3:4]) * extent[0]
    away = torch.stack([tilt.sin() * turn.cos(), tilt.sin() * turn.sin(), -tilt.cos()], -1)
    aim = extent / 2 + 0.12 * extent[0] * F.pad(2 * drawn[:, 4:] - 1, (0, 1))
    up = torch.stack([roll.sin(), -roll.cos(), torch.zeros_like(roll)], -1)
    K = torch.tensor([[0.9 * width, 0, 0.51 * width], [0, 0.9 * width, 0.485 * height], [0, 0, 1]]).double()
    return Camera(K.expand(views, 3, 3), look_at(aim + distance * away, aim, up), height, width)


def experiment(
    views: int = 12,
    noise: float = 0.2,
    rows: int = 6,
    columns: int = 9,
    height: int = 360,
    width: int = 480,
    seed: int = 0,
) -> dict[str, float]:
    """Rendered boards, their corners found, `noise` pixels added to them: errors of corners, focal length and lens."""
    square = 0.03
    lens = torch.tensor([-0.25, 0.08, 0.001, -0.0008, -0.01], dtype=torch.float64)
    cameras = board_views(views, rows, columns, square, height, width, seed)
    images = render_chessboard(cameras, lens, rows, columns, square)
    images = images + 0.01 * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    system = CameraCalibration(rows, columns, square)
    corners, found = system.find(list(images))
    truth = true_corners(cameras, lens, rows, columns, square)[found]
    off = torch.linalg.norm(corners - truth, dim=-1)
    clean = system.fit(corners, height, width)
    jitter = torch.randn(corners.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    noisy = system.fit(corners + noise * jitter, height, width)
    focal = float(cameras.K[0, 0, 0])
    return {
        "found": len(found) / views,
        "corner_rms": float(off.square().mean().sqrt()),
        "focal_error": float((noisy.K.diagonal()[:2] / focal - 1).abs().max()),
        "rms": noisy.rms,
        "focal_error_without_noise": float((clean.K.diagonal()[:2] / focal - 1).abs().max()),
        "rms_without_noise": clean.rms,
    }


def true_corners(
    cameras: Camera, lens: Float[Tensor, " 5"], rows: int, columns: int, square: float
) -> Float[Tensor, "views n 2"]:
    """Where the lens of each camera puts the board's corners."""
    board = board_corners(rows, columns, square)
    seen = board @ cameras.R.transpose(-1, -2) + cameras.t[:, None]
    return pixels_of(distort(seen[..., :2] / seen[..., 2:], lens.expand(len(seen), 5)), cameras.K)
