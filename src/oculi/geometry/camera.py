r"""Pinhole cameras in OpenCV axes: x right, y down, z forward; pixel centres at +0.5.

    w [u v 1]^T = K [R|t] [X Y Z 1]^T          world to pixel
    [X Y Z]^T  = w R^T K^{-1} [u v 1]^T - R^T t  pixel to world, once the depth w is known

K is 3x3 in pixels, `world_to_camera` is the 4x4 matrix [[R, t], [0, 1]]: the columns of R are the world's axes in camera
coordinates, t is the world's origin in camera coordinates. Depth is metres along z, not along the ray.

Source: Hartley and Zisserman, Multiple View Geometry (2004), chapter 6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass
class Camera:
    """One camera or a batch of them (leading dimensions).

    `K`: intrinsics in pixels; `world_to_camera`: rigid transform; `height`, `width`: picture size in pixels.
    """

    K: Float[Tensor, "*batch 3 3"]
    world_to_camera: Float[Tensor, "*batch 4 4"]
    height: int
    width: int

    @property
    def R(self) -> Float[Tensor, "*batch 3 3"]:
        """Rotation, world to camera."""
        return self.world_to_camera[..., :3, :3]

    @property
    def t(self) -> Float[Tensor, "*batch 3"]:
        """The world's origin in camera coordinates."""
        return self.world_to_camera[..., :3, 3]

    @property
    def center(self) -> Float[Tensor, "*batch 3"]:
        """The camera's place in the world: C = -R^T t."""
        return -(self.R.transpose(-1, -2) @ self.t[..., None])[..., 0]

    def __getitem__(self, index: int | Int[Tensor, " n"]) -> Camera:
        return replace(self, K=self.K[index], world_to_camera=self.world_to_camera[index])

    def __len__(self) -> int:
        if self.K.ndim == 2:
            raise TypeError("a single Camera has no length; stack cameras with Camera.stack first")
        return self.K.shape[0]

    def to(self, device: torch.device | str) -> Camera:
        """The same camera on another device."""
        return replace(self, K=self.K.to(device), world_to_camera=self.world_to_camera.to(device))

    @staticmethod
    def stack(cameras: list[Camera]) -> Camera:
        """Join single cameras of one picture size into a batch."""
        sizes = {(c.height, c.width) for c in cameras}
        if len(sizes) != 1:
            raise ValueError(f"cameras: expected one picture size, got {sorted(sizes)}")
        first = cameras[0]
        return Camera(
            torch.stack([c.K for c in cameras]),
            torch.stack([c.world_to_camera for c in cameras]),
            first.height,
            first.width,
        )

    def project(self, points: Float[Tensor, "*batch n 3"]) -> tuple[Tensor, Tensor]:
        """World points to pixels (x, y) and depth along z, both differentiable; depth <= 0 is behind the camera."""
        seen = points @ self.R.transpose(-1, -2) + self.t[..., None, :]
        depth = seen[..., 2]
        homogeneous = seen @ self.K.transpose(-1, -2)
        return homogeneous[..., :2] / homogeneous[..., 2:], depth

    def rays(self, pixels: Float[Tensor, "*batch n 2"] | None = None) -> tuple[Tensor, Tensor]:
        """Origins and directions of the rays through `pixels` (default: every pixel centre, row by row).

        Directions have z = 1 in the camera's frame, so that `origin + depth * direction` is the point at that depth.
        """
        if pixels is None:
            pixels = pixel_centers(self.height, self.width).to(self.K).expand(*self.K.shape[:-2], -1, 2)
        ones = torch.ones_like(pixels[..., :1])
        local = torch.cat([pixels, ones], -1) @ torch.linalg.inv(self.K).transpose(-1, -2)
        directions = local @ self.R
        return self.center[..., None, :].expand_as(directions), directions


def pixel_centers(height: int, width: int, device: torch.device | str = "cpu") -> Float[Tensor, "pixels 2"]:
    """(x, y) of every pixel centre, row by row: the first is (0.5, 0.5)."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5, indexing="ij"
    )
    return torch.stack([x, y], -1).reshape(-1, 2)


def intrinsics(
    focal_x: float, focal_y: float, center_x: float, center_y: float, skew: float = 0.0
) -> Float[Tensor, "3 3"]:
    """K = [[a_x, skew, u0], [0, a_y, v0], [0, 0, 1]], all in pixels."""
    return torch.tensor([[focal_x, skew, center_x], [0.0, focal_y, center_y], [0.0, 0.0, 1.0]])


def world_to_camera_from_pose(
    rotation: Float[Tensor, "*batch 3 3"], center: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 4 4"]:
    """Invert a camera pose: columns of `rotation` are the camera's axes in the world. R = R_c^T, t = -R_c^T C."""
    R = rotation.transpose(-1, -2)
    matrix = torch.zeros(*rotation.shape[:-2], 4, 4, dtype=rotation.dtype, device=rotation.device)
    matrix[..., :3, :3] = R
    matrix[..., :3, 3] = -(R @ center[..., None])[..., 0]
    matrix[..., 3, 3] = 1.0
    return matrix


def pose_from_world_to_camera(
    matrix: Float[Tensor, "*batch 4 4"],
) -> tuple[Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch 3"]]:
    """(R_c, C): the camera's axes as columns and its place in the world; inverse of `world_to_camera_from_pose`."""
    rotation = matrix[..., :3, :3].transpose(-1, -2)
    return rotation, -(rotation @ matrix[..., :3, 3:])[..., 0]


def look_at(
    center: Float[Tensor, "*#batch 3"], target: Float[Tensor, "*#batch 3"], up: Float[Tensor, "*#batch 3"]
) -> Float[Tensor, "*out 4 4"]:
    """World-to-camera of a camera at `center` that looks at `target`; `up` points upwards in the world.

    Raises ValueError where the viewing direction is zero or parallel to `up`.
    """
    forward = target - center
    right = torch.linalg.cross(forward, up.expand_as(forward))
    if bool((torch.linalg.norm(right, dim=-1) < 1e-8).any()):
        raise ValueError(
            "look_at: the viewing direction is zero or parallel to up; move the target or choose another up"
        )
    forward = forward / torch.linalg.norm(forward, dim=-1, keepdim=True)
    right = right / torch.linalg.norm(right, dim=-1, keepdim=True)
    down = torch.linalg.cross(forward, right)
    return world_to_camera_from_pose(torch.stack([right, down, forward], -1), center)
