from models.studio.scenes import BACKGROUNDS, COLOURS, LOOKS, OBJECTS, choose_held_out_triples, held_out_triples, scene


def test_the_same_index_is_always_the_same_scene() -> None:
    assert scene("train", 7, look="inkwell") == scene("train", 7, look="inkwell")
    assert scene("train", 7) != scene("train", 8)


def test_splits_never_share_a_scene() -> None:
    drawn = {split: {scene(split, i) for i in range(400)} for split in ("train", "judge", "test")}
    assert not drawn["train"] & drawn["judge"]
    assert not drawn["train"] & drawn["test"]
    assert not drawn["judge"] & drawn["test"]


def test_training_never_draws_a_held_out_triple() -> None:
    assert not {scene("train", i).triple for i in range(3000)} & held_out_triples()
    assert {scene("test", i).triple for i in range(3000)} & held_out_triples(), "test pictures may"


def test_held_out_list_is_the_one_its_recipe_draws() -> None:
    assert held_out_triples() == set(choose_held_out_triples())
    assert len(held_out_triples()) >= 150, "the evaluation asks for 150 different ones"


def test_every_word_is_told_apart() -> None:
    words = [*OBJECTS, *COLOURS, *BACKGROUNDS, *LOOKS]
    assert len(words) == len(set(words))
    assert len(OBJECTS) >= 12
    assert len(COLOURS) >= 12
