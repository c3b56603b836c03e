//! What keeps `qbench load` from being carried out.

use std::{io, net::SocketAddr, path::PathBuf};

use crate::{config::ConfigError, load::LoadError};

/// A load that could not be asked for, carried or printed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadCliError {
    /// The URL itself is not one to send to. It is not repeated: it may hold a password.
    #[error("cannot send to that URL: {0}")]
    Url(&'static str),
    /// An option that does not fit, alone or with another. Its value is not repeated where it may be a secret.
    #[error("{message}")]
    Option {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: &'static str,
    },
    /// The requests file.
    #[error(transparent)]
    Requests(#[from] ConfigError),
    /// Another machine, without leave.
    #[error("host {host} is not this machine ({address})")]
    Remote {
        /// As given.
        host: String,
        /// The address it has.
        address: SocketAddr,
    },
    /// The name has no address.
    #[error("cannot find host {host} (dns): {source}")]
    Resolve {
        /// As given.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The body file.
    #[error("cannot read body file {}: {source}", path.display())]
    Body {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that was to be written.
    #[error("cannot write {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The load itself.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The output cannot be written.
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
}

impl LoadCliError {
    pub(super) fn option(message: impl Into<String>, hint: &'static str) -> Self {
        Self::Option { message: message.into(), hint }
    }

    /// Whether the command line is at fault rather than the machine.
    pub(crate) fn is_usage(&self) -> bool {
        match self {
            Self::Url(_)
            | Self::Option { .. }
            | Self::Requests(_)
            | Self::Remote { .. }
            | Self::Body { .. } => true,
            Self::Load(error) => {
                matches!(
                    error,
                    LoadError::Rate(_)
                        | LoadError::Plan(_)
                        | LoadError::Request { .. }
                        | LoadError::Variables { .. }
                )
            }
            Self::Resolve { .. } | Self::File { .. } | Self::Output(_) => false,
        }
    }

    /// What the user can do about it, where that is known.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Url(_) => Some("give it as http://HOST:PORT/PATH or https://HOST:PORT/PATH".to_owned()),
            Self::Option { hint, .. } => Some((*hint).to_owned()),
            Self::Remote { .. } => Some(
                "a load can bring a service down; if you may do that there, add --allow-remote".to_owned(),
            ),
            Self::Load(LoadError::RealTime(_)) => {
                Some("it needs root or CAP_SYS_NICE; leave out --realtime to do without".to_owned())
            }
            _ => None,
        }
    }
}
