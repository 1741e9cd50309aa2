r"""NeRF: a scene as a function from place and direction to colour and density, learned from posed pictures.

    sigma = f(gamma(x)) >= 0                      density: of the place only
    c     = g(f(gamma(x)), gamma(d)) in [0, 1]    colour: also of the direction, for highlights
    C(r)  = sum_i T_i (1 - exp(-sigma_i delta_i)) c_i          volume rendering along the ray x(t) = o + t d
    L     = sum over rays |C_coarse(r) - C(r)|^2 + |C_fine(r) - C(r)|^2

gamma is the positional encoding. Two networks: the coarse one is sampled once in each of equal bins of depth; its
weights say where the fine one looks closer (hierarchical sampling; the fine one sees both sets of samples).

    image, camera     batch x 3 x H x W with batch cameras: some rays of them are drawn for each step
    depth t           metres along the camera's z axis from `near` to `far`
    place             divided by `radius` before gamma, so that the scene lies in [-1, 1]^3

The last interval of a ray reaches to infinity, so what lies behind `far` is painted there. Static scenes only; slow;
poor where few cameras looked. Differs from the paper: softplus in place of ReLU for the density (no dead start).

Mildenhall, Srinivasan, Tancik, Barron, Ramamoorthi, Ng: NeRF: Representing Scenes as Neural Radiance Fields for View
Synthesis, 2020, arXiv:2003.08934.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.geometry.camera import Camera
from oculi.input_contract import InputContract
from oculi.nn.fourier import positional_encoding
from oculi.ops.volume_rendering import composite, importance_depths, render_weights, stratified_depths
from oculi.predictions import Images
from oculi.system import System
from oculi.types import Batch, Losses

INFINITE = 1e10  # metres: the last interval


class RadianceField(nn.Module):
    """Encoded place -> ReLU layers with one skip from the input -> density and, with the encoded direction, colour."""

    def __init__(self, width: int, depth: int, place_frequencies: int, direction_frequencies: int):
        super().__init__()
        self.place_frequencies, self.direction_frequencies = place_frequencies, direction_frequencies
        place, direction = 6 * place_frequencies, 6 * direction_frequencies
        self.skip = depth // 2 if depth > 2 else -1
        sizes = [place] + [width + (place if index == self.skip else 0) for index in range(1, depth)]
        self.trunk = nn.ModuleList(nn.Linear(size, width) for size in sizes)
        self.density = nn.Linear(width, 1)
        self.feature = nn.Linear(width, width)
        self.colour = nn.Sequential(nn.Linear(width + direction, width // 2), nn.ReLU(), nn.Linear(width // 2, 3))

    def forward(
        self, place: Float[Tensor, "rays samples 3"], direction: Float[Tensor, "rays 3"]
    ) -> tuple[Float[Tensor, "rays samples"], Float[Tensor, "rays samples 3"]]:
        """Density (per unit of length) and colour; places in [-1, 1]^3, directions of length 1."""
        encoded = positional_encoding(place, self.place_frequencies)
        x = encoded
        for index, layer in enumerate(self.trunk):
            x = F.relu(layer(torch.cat([x, encoded], -1) if index == self.skip else x))
        seen_from = positional_encoding(direction, self.direction_frequencies)[:, None].expand(-1, place.shape[1], -1)
        colour = self.colour(torch.cat([self.feature(x), seen_from], -1)).sigmoid()
        return F.softplus(self.density(x)[..., 0]), colour


class NeRF(System):
    """NeRF with a coarse and a fine field.

    width, depth: of the fields. place_frequencies, direction_frequencies: L of the encodings. coarse, fine: samples per
    ray. near, far: metres along z. radius: metres from the world's origin to the scene's end. rays: per training step.
    """

    answer = Images

    def __init__(
        self,
        width: int = 256,
        depth: int = 8,
        place_frequencies: int = 10,
        direction_frequencies: int = 4,
        coarse: int = 64,
        fine: int = 128,
        near: float = 2.0,
        far: float = 6.0,
        radius: float = 4.0,
        rays: int = 1024,
        image_size: int = 64,
    ):
        super().__init__(InputContract(image_size, image_size))
        if not 0 <= near < far:
            raise ValueError(f"near: expected 0 <= near < far, got {near} and {far}")
        if radius <= 0:
            raise ValueError(f"radius: expected a positive number of metres, got {radius}")
        self.samples, self.near, self.far, self.radius, self.rays = (coarse, fine), near, far, radius, rays
        self.coarse = RadianceField(width, depth, place_frequencies, direction_frequencies)
        self.fine = RadianceField(width, depth, place_frequencies, direction_frequencies)

    def forward(
        self, origin: Float[Tensor, "rays 3"], direction: Float[Tensor, "rays 3"]
    ) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, "rays 3"]]:
        """Colours of rays by the coarse and by the fine field; directions as `Camera.rays` gives them."""
        first = stratified_depths(len(origin), self.samples[0], self.near, self.far, self.training, origin.device)
        coarse, weights = self._shade(self.coarse, origin, direction, first)
        middles = (first[:, 1:] + first[:, :-1]) / 2
        edges = torch.cat([first[:, :1], middles, first[:, -1:]], -1)
        second = importance_depths(edges, weights.detach(), self.samples[1], self.training)
        fine, _ = self._shade(self.fine, origin, direction, torch.cat([first, second], -1).sort(-1).values)
        return coarse, fine

    def _shade(
        self, field: RadianceField, origin: Tensor, direction: Tensor, depth: Float[Tensor, "rays samples"]
    ) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, "rays samples"]]:
        """Colours of rays and the weights of their samples."""
        place = origin[:, None] + depth[..., None] * direction[:, None]
        length = torch.linalg.norm(direction, dim=-1, keepdim=True)
        density, colour = field(place / self.radius, direction / length)
        interval = torch.cat([depth.diff(dim=-1) * length, torch.full_like(depth[:, :1], INFINITE)], -1)
        weights, _ = render_weights(density, interval)
        return composite(weights, colour), weights

    def loss(self, batch: Batch) -> Losses:
        if batch.image is None or batch.camera is None:
            raise ValueError("batch: expected images with their cameras")
        views, _, height, width = batch.image.shape
        view = torch.randint(views, (self.rays,), device=batch.image.device)
        x = torch.randint(width, (self.rays,), device=batch.image.device)
        y = torch.randint(height, (self.rays,), device=batch.image.device)
        pixel = torch.stack([x, y], -1)[:, None] + 0.5  # one pixel of each drawn view
        origin, direction = batch.camera[view].rays(pixel)
        coarse, fine = self(origin[:, 0], direction[:, 0])
        true = batch.image[view, :, y, x]
        return {"coarse": F.mse_loss(coarse, true), "fine": F.mse_loss(fine, true)}

    def predict(self, batch: Batch) -> list[Images]:
        if batch.camera is None:
            raise ValueError("batch: expected cameras to render, got none")
        return [Images(image[None]) for image in self.render(batch.camera).images]

    @torch.no_grad()
    def render(self, cameras: Camera) -> Images:
        """One picture per camera (a batch of cameras), by the fine field, in eval mode."""
        was = self.training
        self.eval()
        origin, direction = cameras.rays()
        chunks = zip(origin.reshape(-1, 3).split(4096), direction.reshape(-1, 3).split(4096), strict=True)
        colour = torch.cat([self(*chunk)[1] for chunk in chunks])
        self.train(was)
        return Images(colour.reshape(-1, cameras.height, cameras.width, 3).permute(0, 3, 1, 2))
