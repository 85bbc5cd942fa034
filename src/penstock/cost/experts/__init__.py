"""What a mixture of experts costs: who computes which pairs, how long that takes, and how tokens get there.

``routing`` counts pairs and experts per rank, ``times`` and its sources (``grid``, ``rates``, ``measured``) say how
long a rank's experts take, ``dispatch`` moves tokens between ranks, ``layer`` puts a layer together.
"""
