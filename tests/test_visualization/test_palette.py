from fiber_mm.visualization import OKABE_ITO, colours_of, hex_of, ink_on


def test_equal_names_have_equal_colours_and_different_ones_differ():
    colours = colours_of(['a', 'b', 'a', 'c'])
    assert list(colours) == ['a', 'b', 'c']
    assert len(set(colours.values())) == 3
    assert len(colours_of(range(20))) == 20


def test_ink_can_be_read():
    assert ink_on((255, 255, 255)) == (0, 0, 0)
    assert ink_on((0, 0, 0)) == (255, 255, 255)
    assert ink_on((240, 228, 66)) == (0, 0, 0)
    assert ink_on((0, 114, 178)) == (255, 255, 255)
    assert hex_of(OKABE_ITO[0]) == '#e69f00'
