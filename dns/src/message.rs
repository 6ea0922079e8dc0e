//! Questions parsed and answers built (hickory-proto), with the limits of M1, M2 and M7.
