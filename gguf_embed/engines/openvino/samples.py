"""Real texts of many kinds and lengths, on which precision is checked at warm-up."""

from __future__ import annotations

from typing import Final

SAMPLES: Final = (
    "how do I reset my password",
    "Paris",
    "The committee postponed its decision until the auditors had seen the accounts for the third quarter.",
    "Der Zug nach Köln fährt heute wegen Bauarbeiten erst um 14:35 Uhr von Gleis 7 ab.",
    "El aceite de oliva virgen extra se obtiene en frío y conserva mejor su aroma.",
    "机器学习模型需要大量的数据才能得到好的结果。",
    "Поезд опоздал на два часа, потому что ночью выпало много снега.",
    "في الصباح ذهبنا إلى السوق واشترينا الخبز والفواكه.",
    "def mean(values):\n    if not values:\n        raise ValueError('no values')\n    return "
    "sum(values) / len(values)\n",
    "SKU 4471-B, 12 x 0.75 l, EUR 83.40 incl. VAT, best before 2027-03-31",
    "The heart pumps blood through two circuits. In the first, blood that is low in oxygen goes to the "
    "lungs, where it takes up oxygen and gives off carbon dioxide. In the second, blood that is rich in "
    "oxygen goes to all other organs. Valves between the chambers keep the blood from flowing back, and "
    "a group of cells in the wall of the right atrium sets the rhythm. At rest, an adult's heart beats "
    "sixty to eighty times a minute; in sleep more slowly, and under exertion up to three times as "
    "fast.",
    "Glaciers form where more snow falls in winter than melts in summer. Over decades the snow is "
    "pressed into ice, which begins to flow downhill under its own weight, a few centimetres to several "
    "metres a day. On its way it takes up rock and grinds the valley floor; where it ends, it leaves "
    "the debris behind as a moraine. From the position of old moraines one can read how far the ice "
    "once reached. Since the middle of the nineteenth century most glaciers of the Alps have lost more "
    "than half of their area, and the smaller ones will disappear within this century. Rivers that they "
    "feed today will then carry less water in dry summers, which matters for farming, for shipping and "
    "for power stations far from the mountains.",
)
