"""Rotations: matrices, vectors and quaternions there and back, beside OpenCV's and scipy's."""

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from oculi.geometry.rotations import (
    cross_matrix,
    nearest_rotation,
    quaternion_from_rotation,
    rotation_from_quaternion,
    rotation_from_vector,
    vector_from_rotation,
)


def vectors() -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    v = torch.randn(40, 3, generator=g, dtype=torch.float64)
    v[0], v[1], v[2] = 0, 1e-9 * v[1], v[2] / v[2].norm() * (torch.pi - 1e-7)
    return v / v.norm(dim=-1, keepdim=True).clamp_min(1e-12) * v.norm(dim=-1, keepdim=True).clamp_max(3.1)


def test_vectors_are_scipys_and_opencvs():
    R = rotation_from_vector(vectors())
    np.testing.assert_allclose(R.numpy(), Rotation.from_rotvec(vectors().numpy()).as_matrix(), atol=1e-12)
    np.testing.assert_allclose(R[5].numpy(), cv2.Rodrigues(vectors()[5].numpy())[0], atol=1e-12)
    torch.testing.assert_close(vector_from_rotation(R), vectors(), atol=1e-9, rtol=0)


def test_quaternions_are_scipys():
    R = rotation_from_vector(vectors())
    q = quaternion_from_rotation(R)
    theirs = Rotation.from_matrix(R.numpy()).as_quat()[:, [3, 0, 1, 2]]
    theirs *= np.sign((theirs * q.numpy()).sum(1, keepdims=True))
    np.testing.assert_allclose(q.numpy(), theirs, atol=1e-9)
    torch.testing.assert_close(rotation_from_quaternion(-3 * q), R, atol=1e-12, rtol=0)
    half_turns = torch.diag_embed(torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1]]))
    torch.testing.assert_close(rotation_from_quaternion(quaternion_from_rotation(half_turns)), half_turns)


def test_gradients_at_no_rotation():
    v = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotation_from_vector, v)
    assert torch.autograd.gradcheck(lambda w: vector_from_rotation(rotation_from_vector(w)), v)


def test_nearest_rotation_has_no_reflection():
    M = torch.diag(torch.tensor([2.0, 1.0, -0.1], dtype=torch.float64))
    torch.testing.assert_close(nearest_rotation(M), torch.eye(3, dtype=torch.float64))


@pytest.mark.unchecked
def test_no_quaternion_of_length_zero():
    with pytest.raises(ValueError, match="length above 0"):
        rotation_from_quaternion(torch.zeros(4))


def test_cross_matrix_is_the_cross_product_and_the_exponent():
    v, w = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind(0)
    torch.testing.assert_close((cross_matrix(v) @ w[..., None])[..., 0], torch.linalg.cross(v, w))
    torch.testing.assert_close(rotation_from_vector(v), torch.linalg.matrix_exp(cross_matrix(v)))
