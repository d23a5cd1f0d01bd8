"""HTTPS before an MLflow server, with an authority of its own, for the tests.

    tls.py FOLDER HOST PORT      writes FOLDER/authority.pem, prints the port that it listens on, and passes bytes on until its
                                 standard input ends
"""

import datetime
import ipaddress
import os
import socket
import ssl
import sys
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

folder, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])


def certificate(name, key, issuer, issuer_key, is_authority):
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if not is_authority:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
authority, server = name("tidemill test authority"), name("tidemill test server")
paths = {part: os.path.join(folder, part) for part in ("authority.pem", "server.pem", "server.key")}
with open(paths["authority.pem"], "wb") as file:
    file.write(certificate(authority, authority_key, authority, authority_key, True))
with open(paths["server.pem"], "wb") as file:
    file.write(certificate(server, server_key, authority, authority_key, False))
with open(paths["server.key"], "wb") as file:
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    file.write(server_key.private_bytes(pem, form, serialization.NoEncryption()))

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(paths["server.pem"], paths["server.key"])


def passed(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def serve(plain):
    try:
        client = context.wrap_socket(plain, server_side=True)
    except (OSError, ssl.SSLError):
        return
    upstream = socket.create_connection((host, port))
    threading.Thread(target=passed, args=(client, upstream), daemon=True).start()
    passed(upstream, client)
    client.close()


def accept(listener):
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=accept, args=(listener,), daemon=True).start()
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
