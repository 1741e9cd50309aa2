r"""Object recognition by keypoints: an object is there if enough of its features are found again, all in one place.

    stored picture of the object -> SIFT ->\
                                            matches (mutual, ratio test) -> homography by RANSAC -> inliers >= threshold
    scene                        -> SIFT ->/

A match that is right by chance agrees with no other; a dozen that agree on one map are no chance. The map says where the
object is and how it lies, also where half of it is hidden.

    stored, scene   1 or 3 x H x W in [0, 1]
    outline         4 x 2, pixels of the scene: the stored picture's corners

Differs from the paper: RANSAC for the Hough transform of poses, a homography for an affine map; one place per object.

Lowe: Object recognition from local scale-invariant features, ICCV 1999.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from oculi.classical.image_registration import agree, grey_picture, is_sane
from oculi.classical.sift import SIFT, photographs
from oculi.geometry.homography import apply_homography, warp_perspective
from oculi.predictions import Keypoints


@dataclass
class Recognised:
    """An object that is in the scene: where, and how many matches say so."""

    name: str
    H: Float[Tensor, "3 3"]
    outline: Float[Tensor, "4 2"]
    inliers: int


class KeypointObjectRecognition:
    """Remembers objects by a picture each and finds them in scenes; nothing is learned by gradient.

    inliers: consistent matches from which on an object is declared present. ratio: of the ratio test. threshold: pixels
    by which a match may miss. max_keypoints: strongest features used per picture, 0 for all.
    """

    def __init__(
        self, inliers: int = 10, ratio: float = 0.8, threshold: float = 3.0, max_keypoints: int = 0, seed: int = 0
    ):
        if inliers < 5:
            raise ValueError(f"inliers: expected at least 5, one more than any four matches have, got {inliers}")
        if not 0 < ratio <= 1 or not threshold > 0:
            raise ValueError(f"ratio, threshold: expected (0, 1] and a positive number, got {ratio} and {threshold}")
        self.inliers, self.ratio, self.threshold, self.seed = inliers, ratio, threshold, seed
        self.features = SIFT(max_keypoints=max_keypoints, root=True)
        self.objects: dict[str, tuple[Keypoints, int, int]] = {}

    @torch.no_grad()
    def remember(self, name: str, picture: Float[Tensor, "c h w"]) -> None:
        """Store an object. Raises ValueError where the picture has too few features to know it by."""
        found = self.features.detect(grey_picture(picture, "picture"))
        if len(found.points) < self.inliers:
            raise ValueError(f"picture: expected at least {self.inliers} features on {name}, found {len(found.points)}")
        self.objects[name] = found, *picture.shape[1:]

    @torch.no_grad()
    def recognise(self, scene: Float[Tensor, "c h w"]) -> list[Recognised]:
        """Those of the remembered objects that are in the scene, the surest first; none where there are none."""
        if not self.objects:
            raise ValueError("scene: no object to look for; call remember(name, picture) first")
        seen, answers = self.features.detect(grey_picture(scene, "scene")), []
        for name, (own, height, width) in self.objects.items():
            try:
                found = agree(own, seen, self.ratio, self.threshold, self.inliers, self.seed)
            except ValueError:
                continue  # not in this scene
            if is_sane(found.H, height, width):
                corners = found.H.new_tensor([[0, 0], [width, 0], [width, height], [0, height]])
                answers.append(Recognised(name, found.H, apply_homography(found.H, corners), len(found.first)))
        return sorted(answers, key=lambda answer: -answer.inliers)


# the experiment ------------------------------------------------------------------------------------------------------


def similarity(size: int, place: tuple[float, float], degrees: float, scale: float) -> Float[Tensor, "3 3"]:
    """A `size` x `size` picture turned and scaled about its middle, which goes to `place`."""
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    c, s, half = float(scale * angle.cos()), float(scale * angle.sin()), size / 2
    rows = [[c, -s, place[0] - c * half + s * half], [s, c, place[1] - s * half - c * half], [0, 0, 1]]
    return torch.tensor(rows, dtype=torch.float64)


def pasted(scene: Float[Tensor, "c h w"], picture: Float[Tensor, "c h2 w2"], H: Float[Tensor, "3 3"]) -> Tensor:
    """The scene with the picture in it, H mapping its pixels to the scene's."""
    warped, inside = warp_perspective(picture, H, *scene.shape[1:])
    return torch.where(inside, warped.clamp(0, 1), scene)


def experiment(
    size: int = 384, stored: int = 144, scenes: int = 4, hidden: float = 0.3, seed: int = 0
) -> dict[str, float]:
    """Cuttings of photographs turned, scaled, partly hidden and laid into other photographs, and photographs without.

    recall: of the objects laid in. false_alarms: objects declared present that are not, per scene and object.
    """
    generator = torch.Generator().manual_seed(seed)
    photos = photographs(size)
    names = [f"photo {i}" for i in range(len(photos))]
    middle = slice((size - stored) // 2, (size + stored) // 2)
    cuttings = [photo[:, middle, middle] for photo in photos]
    system = KeypointObjectRecognition(seed=seed)
    for name, cutting in zip(names, cuttings):
        system.remember(name, cutting)
    found, alarms, errors, chances = 0, 0, [], 0
    for index, cutting in enumerate(cuttings):
        for number in range(scenes):
            background = photos[(index + 1 + number) % len(photos)]
            own = (index + 1 + number) % len(photos)  # the background holds its own cutting, where it is not covered
            place, angle, scale = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
            H = similarity(stored, (size * (0.35 + 0.3 * place), size * 0.5), 360 * angle, 0.7 + 0.8 * scale)
            scene = pasted(background, cutting, H)
            edge = int(apply_homography(H, H.new_tensor([[stored / 2, stored / 2]]))[0, 1] + stored * (0.5 - hidden))
            scene = torch.cat([scene[:, :edge], 0.5 * torch.ones_like(scene[:, edge:])], 1)
            answers = {answer.name: answer for answer in system.recognise(scene)}
            there = answers.get(names[index])
            if there is not None:
                found += 1
                corners = H.new_tensor([[0, 0], [stored, 0], [stored, stored], [0, stored]])
                errors.append(float((there.outline - apply_homography(H, corners)).norm(dim=1).mean()))
            others = [name for i, name in enumerate(names) if i not in (index, own)]
            alarms += sum(name in answers for name in others)
            chances += len(others)
    return {
        "recall": found / (len(cuttings) * scenes),
        "false_alarms": alarms / chances,
        "median_corner_error": float(torch.tensor(errors).median()) if errors else float("inf"),
        "scenes": float(len(cuttings) * scenes),
    }
