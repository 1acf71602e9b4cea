//! The vocabulary: which sites exist, along which axes, in which row space.
//!
//! The same words as `python/residuum/sites.py`; a site is parsed once, at the edge.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// What a row of an array stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowSpace {
    /// One stored (example, token) pair.
    Token,
    /// One distinct example.
    Example,
}

impl RowSpace {
    /// Both row spaces.
    pub const ALL: [Self; 2] = [Self::Token, Self::Example];

    /// The word used in metadata.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Example => "example",
        }
    }
}

macro_rules! sites {
    ($($variant:ident $name:literal [$($axis:literal),*] $doc:literal;)*) => {
        /// A place in a model whose activations can be stored.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Site {
            $(#[doc = $doc] $variant,)*
        }

        impl Site {
            /// Every site, in the order a pass reaches them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name used in metadata, SQL and Python.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The axes after `row`, in storage order.
            pub fn axes(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($axis),*],)* }
            }
        }
    };
}

sites! {
    Embed "embed" ["d_model"] "What enters block 0, positions included.";
    ResidPre "resid_pre" ["layer", "d_model"] "The residual stream entering a block.";
    Q "q" ["layer", "head", "d_head"] "Queries before position rotation.";
    K "k" ["layer", "kv_head", "d_head"] "Keys before position rotation.";
    V "v" ["layer", "kv_head", "d_head"] "Values.";
    RotQ "rot_q" ["layer", "head", "d_head"] "Queries after position rotation.";
    RotK "rot_k" ["layer", "kv_head", "d_head"] "Keys after position rotation.";
    AttnScores "attn_scores" ["layer", "head", "key"] "Attention before softmax; a row is a query.";
    Pattern "pattern" ["layer", "head", "key"] "Attention after softmax; a row is a query.";
    Z "z" ["layer", "head", "d_head"] "Pattern-weighted values, before the output matrix.";
    AttnOut "attn_out" ["layer", "d_model"] "What attention adds to the stream.";
    ResidMid "resid_mid" ["layer", "d_model"] "The stream between attention and MLP.";
    MlpPre "mlp_pre" ["layer", "d_mlp"] "MLP hidden units before the activation function.";
    MlpPost "mlp_post" ["layer", "d_mlp"] "MLP hidden units after the activation function.";
    MlpOut "mlp_out" ["layer", "d_model"] "What the MLP adds to the stream.";
    ResidPost "resid_post" ["layer", "d_model"] "The stream leaving a block.";
    NormScale "norm_scale" ["layer", "norm"] "The divisors of a block's norms, in order of use.";
    ResidFinal "resid_final" ["d_model"] "The last block's stream, before the final norm.";
    Logits "logits" ["d_vocab"] "After the final norm and the unembedding.";
    Pooled "pooled" ["d_embed"] "One vector per example.";
    ImageV "image_v" ["layer", "token", "kv_head", "d_head"] "Values of all tokens of an image, which is one row.";
}

impl Site {
    /// The row space a site is stored in unless told otherwise.
    pub fn row_space(self) -> RowSpace {
        match self {
            Self::Pooled | Self::ImageV => RowSpace::Example,
            _ => RowSpace::Token,
        }
    }

    /// True if the site has a value per layer.
    pub fn has_layer(self) -> bool {
        self.axes().first() == Some(&"layer")
    }

    /// True if per-chunk statistics are kept: not where features are not comparable between rows, and
    /// not of images, whose chunks have so few rows that statistics would be half as large as they are.
    pub fn has_statistics(self) -> bool {
        !matches!(self, Self::Pattern | Self::AttnScores | Self::Logits | Self::ImageV)
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Site {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.iter().copied().find(|site| site.as_str() == name).ok_or_else(|| {
            Error::UnknownSite {
                name: name.to_owned(),
                known: Self::ALL.iter().map(ToString::to_string).collect(),
            }
        })
    }
}
