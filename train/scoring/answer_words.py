"""Words by which an answer denies, offers a choice, lists or turns round, in the languages that scoring knows.

The lists of all languages are used together: a data set says nothing of its language, and many mix several. Words that
deny in one language and are common in another stand in `HARMLESS_BESIDE`. docs/scoring.md says what each list does.
"""

from collections.abc import Set

# Each entry is a whole word, lower case. Written out are en, de, fr, es, pt, it, nl, sv, da, no, fi, pl, cs, hu, tr,
# id, vi, ru, uk, el, ar, he, fa and hi, each as far as its words are not common ones of another.
NEGATIONS: Set[str] = set(
    "not never neither nor nothing nobody nowhere cannot "
    "nicht nie niemals nein weder nichts ne pas non jamais ni rien nunca jamás tampoco não nem né "
    "niet nooit inte ej aldrig ikke aldri ei eivät nie nigdy ani není nikdy nem nincs yok hayır hiç bukan tidak "
    "không chẳng не нет ни никогда ні немає δεν όχι لا ليس ليست لم لن غير לא אין نه نیست न ना मत".split()
)
# They deny what follows them, and nothing before: "a man without a hat", "a car with no wheels".
DENYING_WHAT_FOLLOWS: Set[str] = set(
    "no none without kein keine keinen keinem keiner keines ohne statt anstatt anstelle aucun aucune sans "
    "sin ningún ninguno ninguna sem nenhum nenhuma senza nessun nessuna geen zonder ingen uden uten bez tanpa "
    "без вместо χωρίς بدون בלי बिना".split()
)
PHRASES_DENYING_WHAT_FOLLOWS = (
    *("instead of", "rather than", "au lieu de", "en lugar de", "en vez de", "em vez de", "ao invés de", "invece di"),
)
# They deny what stands before them: the clause ends behind them.
DENYING_BEFORE = ("değil", "नहीं", "ではなく", "じゃなく", "でなく", "아니라")
# Of languages without blanks between words, or with endings: found inside of words too.
NEGATIONS_INSIDE = (
    *("不", "没", "沒", "未", "无", "無", "并非", "並非", "而非"),
    *("ない", "なく", "なかった", "ません", "아니", "아닙", "않", "없"),
)
# A word that denies in one language, and words beside which it is of another: Portuguese "no" is "in the", German
# "Ei" an egg.
HARMLESS_BESIDE: dict[str, Set[str]] = {
    "no": set("o é um uma ao são em com ele ela não à na pelo pela".split()),
    "ei": set("ein das dem des ist der die eine".split()),
}
# They look like denials and are none.
IDIOMS = (
    *("no doubt", "without doubt", "without a doubt", "not only", "not just", "nothing but", "no other than"),
    *("ohne zweifel", "kein zweifel", "nicht nur", "sans doute", "sans aucun doute", "non seulement"),
    *("sin duda", "no solo", "no sólo", "sem dúvida", "não só", "senza dubbio", "non solo"),
    *("не только", "без сомнения", "нет сомнений", "非常", "不仅", "不但", "不只", "不错", "没错", "無論", "无论"),
    *("間違いない", "間違いなく", "危ない", "少ない"),
)
OR: Set[str] = set(
    "or oder ou eller tai lub albo nebo vagy veya atau hoặc или либо або ή أو או یا या 또는 혹은".split()
)
OR_BETWEEN_WORDS: Set[str] = {"o"}  # Spanish and Italian; in Portuguese an article, before which there may be nothing
OR_INSIDE = ("或者", "或", "还是", "還是", "または", "もしくは", "あるいは")
AND: Set[str] = set("and und et y e och og ja oraz és și ve dan và и та και و और 및".split())
AND_INSIDE = ("以及", "和", "与", "與")
# The person or thing before them is not denied by what they say of it: "a dog that is not moving".
RELATIVE: Set[str] = set(
    "that which who whose qui dont que quien che dat som który který который которая которое".split()
)
# A clause ends before them, and with it what a denial reaches.
BUT: Set[str] = set(
    "but rather instead sondern aber mais sino pero mas ma bensì maar utan men vaan lecz ale hanem ci ama tetapi mà "
    "а но αλλά بل لكن אלא אבל بلکه लेकिन बल्कि".split()
)
BUT_INSIDE = ("而是", "但是", "可是", "但")
# Little words of sentences. An answer of several words that has none of them is a run of words.
LITTLE_WORDS: Set[str] = set(
    "a an the is are was were be it its this that these there he she they in on at to of with by for from as has have "
    "ein eine einen einem einer der die das den dem des ist sind war es er sie im in auf an zu zum zur von mit bei hat "
    "un une le la les l de du des est sont c ce il elle ils au aux dans sur à avec par a ont d qui se "
    "el los las un una unos es son está están en al del lo con por ha su que se hacia "
    "o os as um uma é são no na do da ao com por ele ela em para "
    "il lo gli uno è sono nel nella sul al di da con si che "
    "een het de is zijn van op met en ett är det den på av med er et "
    "on se hän ovat ja to jest są w na z je jsou v az egy van ez este sunt pe cu bir bu ve ile "
    "ini itu adalah yang di ke dari là một có ở это он она оно они в на с по к у из за це він є "
    "είναι το η ο ένα μια στο στη هو هي في من على إلى هذا זה הוא היא על של है यह का की के में पर".split()
)
ARTICLES: Set[str] = set(
    "a an the ein eine einen einem einer der die das den dem un une le la les l el los las una unos o os as um uma il "
    "lo gli i een het de en ett".split()
)
