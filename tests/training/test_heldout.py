"""Figures against values worked out by hand."""

import numpy as np

from mux_jax.training.heldout import figures, unigram_entropy


def test_retrieval_accuracy_overall_and_for_each_slot():
    outputs = {
        "loss": np.array([1.0, 3.0]),
        "retrieval_correct": np.array([[[True, False]], [[True, True]]]),
        "retrieval_instance": np.array([[[0, 1]], [[1, 1]]]),
    }
    result = figures(outputs)
    assert result["loss"] == 2.0
    assert result["retrieval_accuracy"] == 0.75
    assert result["retrieval_accuracy_per_slot"] == [1.0, 2 / 3]


def test_masked_lm_accuracy_counts_only_weighted_positions():
    outputs = {
        "loss": np.array([0.0]),
        "mlm_correct": np.array([[[[True, False, True]]]]),
        "mlm_weights": np.array([[[[1.0, 1.0, 0.0]]]]),
    }
    assert figures(outputs)["mlm_accuracy"] == 0.5


def test_detection_figures():
    outputs = {
        "loss": np.array([0.0]),
        "rtd_logits": np.array([[[[2.0, -1.0, 1.0, -3.0, 9.0]]]]),
        "rtd_labels": np.array([[[[True, True, False, False, False]]]]),
        "rtd_real": np.array([[[[True, True, True, True, False]]]]),
    }
    result = figures(outputs)
    assert result["rtd_roc_auc"] == 3 / 4  # of the four pairs one, (-1, 1), is in the wrong order
    assert result["rtd_f1"] == 0.5  # one hit, one miss, one false alarm


def test_unigram_entropy_leaves_special_tokens_out():
    tokens = np.array([[[0, 0, 5, 5, 6, 7]]])
    expected = -(0.5 * np.log(0.5) + 2 * 0.25 * np.log(0.25))
    np.testing.assert_allclose(unigram_entropy(tokens, [0, 1, 99]), expected)
