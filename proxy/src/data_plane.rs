//! data_plane.
